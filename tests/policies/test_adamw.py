"""The optimiser against PyTorch's class."""

import subprocess
import sys

import torch

from alltrades.policies.learning.adamw import AdamW


def networks(count):
    torch.manual_seed(0)
    first = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.LayerNorm(7), torch.nn.Linear(7, 2))
    out = [first]
    for _ in range(count - 1):
        other = torch.nn.Sequential(
            torch.nn.Linear(5, 7), torch.nn.LayerNorm(7), torch.nn.Linear(7, 2)
        )
        other.load_state_dict(first.state_dict())
        out.append(other)
    return out


def halves(network):
    parameters = list(network.parameters())
    return [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim <= 1]


def test_steps_are_those_of_pytorchs_class_bit_for_bit():
    ours, theirs = networks(2)
    decayed, others = halves(ours)
    mine = AdamW(decayed, others, weight_decay=0.1)
    groups = [{"params": p, "weight_decay": d} for p, d in zip(halves(theirs), (0.1, 0.0))]
    whole = torch.optim.AdamW(groups, lr=1.0, fused=True)
    for i in range(7):
        lr = 0.01 / (i + 1)
        for group in whole.param_groups:
            group["lr"] = lr
        x = torch.randn(8, 5)
        used = slice(None, None if i % 3 else 2)  # the last layer has no gradient now and then
        for network in (ours, theirs):
            network[used](x).square().mean().backward()
        mine.step(lr)
        whole.step()
        mine.forget_gradients()
        whole.zero_grad()
        assert all(p.grad is None for p in ours.parameters())
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)
        assert mine.state[a].keys() == whole.state[b].keys()
        assert all(torch.equal(mine.state[a][k], whole.state[b][k]) for k in mine.state[a])


def test_a_training_does_not_import_pytorchs_compiler():
    code = (
        "import sys; from tests.policies.toys import *; from alltrades.policies.settings import "
        "TrainSettings; fit_demonstrations(make_steps(), [info('a')], SMALL, "
        "TrainSettings(steps=2, batch=4)); print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr
