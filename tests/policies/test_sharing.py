"""One training by several processes: as that of one, whatever their number."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from alltrades.data.steps import Steps
from alltrades.envs.symmetry import Translation
from alltrades.errors import UserError
from alltrades.policies.learning.batches import Augmentation, demonstration_data
from alltrades.policies.learning.sharing import (
    Column,
    batch_of,
    edges,
    packed,
    parts_of,
    read_state,
    unpacked,
    written_state,
)
from alltrades.policies.learning.training import Goal, Trainer
from alltrades.policies.model.batch import Part, draw_random
from alltrades.policies.model.threads import threads

from .shared_training import INFOS, train, trainer
from .toys import SMALL, info, make_policy, make_steps

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("size, count", [(8, 1), (8, 2), (33, 4), (5, 4), (4, 4)])
def test_shares_of_a_batch_are_all_of_it_and_differ_by_one_sample_at_most(size, count):
    found = edges(size, count)
    sizes = np.diff(found)
    assert found[0] == 0 and found[-1] == size and len(sizes) == count
    assert sizes.min() >= 1 and sizes.max() - sizes.min() <= 1 and sizes.max() == found[1]


def test_a_batch_survives_its_way_to_another_process_bit_for_bit():
    infos = [info("a"), info("b", obs_dim=5, action_dim=3)]
    settings = SMALL.model_copy(update={"preference_input": True})
    policy = make_policy(infos, settings)
    steps = Steps.concatenate([make_steps("a"), make_steps("b", obs_dim=5, action_dim=3, seed=1)])
    shown = Augmentation(symmetries={"a": (Translation(((0,), (1,)), (0.3,)),)})
    batch, rows = demonstration_data(steps, policy, shown).batch(33, 2, 7)
    parts = parts_of(batch, rows)
    columns = [
        Column(*json.loads(json.dumps(Column.of(k, x).described()))) for k, x in parts.items()
    ]
    table = packed(parts, torch.device("cpu"))
    assert table.shape == (33, sum(c.bytes for c in columns))
    got, got_rows = batch_of(unpacked(table[10:21], columns))
    assert np.array_equal(got_rows, rows[10:21])
    assert got.preference is not None and got.outcome is None
    assert set(got.window) == set(batch.window)
    for name, x in parts_of(got, got_rows).items():
        assert x.dtype == parts[name].dtype and torch.equal(x, parts[name][10:21])


def test_the_noise_of_a_share_is_that_of_the_whole_batch():
    def drawn(kind, shape, part=None):
        generator = torch.Generator().manual_seed(5)
        given = generator if part is None else Part(generator, *part, 33)
        first = draw_random(kind, torch.Size(shape), given, torch.device("cpu"))
        second = draw_random(torch.rand, torch.Size(shape[:1]), given, torch.device("cpu"))
        return first, second

    whole = drawn(torch.randn, (33, 4, 3))
    for start, stop in zip(edges(33, 4), edges(33, 4)[1:]):
        share = drawn(torch.randn, (stop - start, 4, 3), (start, stop))
        assert all(torch.equal(x, y[start:stop]) for x, y in zip(share, whole))


@pytest.mark.parametrize("kind", ["plain", "score", "excess", "images", "eyes"])
def test_what_is_sent_to_another_process_computes_the_same(kind):
    here = trainer(kind, None)
    sent = {"policy": here.policy, "goal": Goal(here.objective, here.loss)}
    there = read_state(written_state(sent))
    other = Trainer(there["policy"], here.data, here.settings, here.seed, there["goal"])
    assert other.policy is not here.policy
    for _ in range(2):
        assert torch.equal(here.update(), other.update())


def test_what_cannot_be_sent_is_refused():
    with pytest.raises(UserError, match="expected classes and functions of modules"):
        written_state({"policy": lambda x: x})


def _alone(out: Path, kind: str = "plain", stop: int | None = None) -> Path:
    """A tiny training by this process, see `shared_training.py`."""
    with threads(1):
        train(out, kind, stop)
    return out


def _together(out: Path, count: int, kind: str = "plain", *more: str) -> CompletedProcess[str]:
    """The same by `count` processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(count), "-m", "tests.policies.shared_training"]
    quiet = {"TORCH_CPP_LOG_LEVEL": "ERROR"}  # as the command line sets it
    env = os.environ | {"OMP_NUM_THREADS": "1"} | quiet
    done = subprocess.run(
        [*command, str(out), kind, *more],
        capture_output=True,
        text=True,
        env=env,
        cwd=ROOT,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def _same(a: Path, b: Path, rel: float = 1e-4) -> None:
    """Equal losses and averaged weights, up to rounding."""
    losses = [json.loads((f / "losses.json").read_text()) for f in (a, b)]
    assert losses[0].keys() == losses[1].keys() and len(losses[0]) == 24
    for step, loss in losses[0].items():
        assert loss == pytest.approx(losses[1][step], rel=rel), step
    weights = [load_file(f / "weights.safetensors") for f in (a, b)]
    assert weights[0].keys() == weights[1].keys()
    for name, x in weights[0].items():
        assert torch.allclose(x, weights[1][name], rtol=10 * rel, atol=rel), name


def test_two_processes_train_as_one_and_go_on_where_one_was_ended(tmp_path):
    """A batch of 9 in unequal shares, with weights and symmetries."""
    one = _alone(tmp_path / "one")
    two = _alone(tmp_path / "two", stop=12)  # leaves the checkpoint of step 10 behind
    done = _together(two, 2)
    _same(one, two)
    learned, fresh = load_file(one / "weights.safetensors"), make_policy(INFOS).state_dict()
    assert max((x - fresh[name]).abs().max() for name, x in learned.items()) > 0.01
    assert done.stdout.splitlines() == ["trained by 2"]  # only the first says anything
    assert not done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["score", "excess", "bf16", "images", "eyes"])
def test_four_processes_train_as_one(tmp_path, kind):
    one = _alone(tmp_path / "one", kind)
    _together(tmp_path / "four", 4, kind)
    _same(one, tmp_path / "four", 3e-2 if kind == "bf16" else 1e-4)


@pytest.mark.slow
def test_two_processes_go_on_where_four_were_ended(tmp_path):
    one = _alone(tmp_path / "one")
    _together(tmp_path / "ended", 4, "plain", "--stop", "12")
    _together(tmp_path / "ended", 2)
    _same(one, tmp_path / "ended")
