"""Encoders that go on telling the state while a policy learns to act."""

import copy

import numpy as np
import pytest
import torch

from alltrades.data.actions import ActionSpec
from alltrades.data.episode import Episode
from alltrades.data.fields import Field
from alltrades.data.interface import Interface
from alltrades.data.store import EpisodeStore
from alltrades.errors import UserError
from alltrades.policies.learning.batches import TrainingData, TrainingRows
from alltrades.policies.learning.eyes import Sight, make_reader
from alltrades.policies.learning.initial import build_policy, make_normalizer
from alltrades.policies.learning.telling import Telling, eyes_of, finished, seen_by_eyes
from alltrades.policies.learning.training import Goal, Trainer
from alltrades.policies.settings import EncoderSettings, PolicySettings, TrainSettings

SIDE = 16
SEEN = ("images.top", "proprioception")
ACTION = ActionSpec((-1.0,), (1.0,))


def interface(name, cameras=True):
    """An arm at a place that it knows, and a goal that only the state, or a picture, shows."""
    fields = {"state": Field.state(2), "proprioception": Field.state(1)}
    if cameras:
        fields["images.top"] = Field.image(SIDE, SIDE)
    return Interface(name, fields, ACTION)


def recorded(name, count, cameras=True):
    """Episodes whose picture has a bright column at the goal."""
    rng, out = np.random.default_rng(3), []
    for _ in range(count):
        x = np.cumsum(rng.uniform(-0.2, 0.2, 12))
        goal = np.full(12, rng.uniform(-1, 1))
        seen = {
            "state": np.stack([x, goal], 1).astype(np.float32),
            "proprioception": x[:, None].astype(np.float32),
        }
        if cameras:
            frames = np.full((12, SIDE, SIDE, 3), 30, np.uint8)
            column = round((goal[0] + 1) / 2 * (SIDE - 1))
            frames[:, :, max(0, column - 1) : column + 2] = 250
            seen["images.top"] = frames
        actions = np.clip(goal - x, -1, 1)[:, None].astype(np.float32)
        out.append(Episode.from_arrays(seen, actions=actions, environment=name))
    return out


NETWORK = PolicySettings(
    width=32, depth=1, horizon=4, n_action_steps=2, observe=SEEN, encoder=EncoderSettings()
)
SIGHT = Sight(("images.top",), ("proprioception",), {("a", "state"): (1,)})


@pytest.fixture
def made(tmp_path):
    """Steps of an environment with a camera and of one without, a policy of both, and eyes that
    know the first.
    """
    environments = [interface("b", cameras=False), interface("a")]
    episodes = recorded("a", 40) + recorded("b", 4, cameras=False)
    steps = EpisodeStore.write(tmp_path / "seen.zarr", episodes).steps()
    reader = make_reader(steps, environments[1:], NETWORK, SIGHT, 32, 0, "cpu")
    normalizer = make_normalizer(steps, environments, NETWORK)
    policy = build_policy(NETWORK, environments, normalizer, 0, "cpu").train()
    return steps, policy, reader


def data_of(steps, policy, reader):
    rows = TrainingRows(steps=steps, probability=np.ones(len(steps)))
    return TrainingData(rows, policy, teachers=seen_by_eyes(reader))


def test_it_adds_what_is_missed_where_the_eyes_know_the_environment(made):
    steps, policy, reader = made
    data, telling = data_of(steps, policy, reader), Telling(policy, reader, 0.5, 0.0)
    batch, rows = data.batch(32, 0, 0)

    def generator():
        return torch.Generator().manual_seed(1)

    plain = policy.loss(batch, generator())
    found = telling(policy, batch, generator(), rows)
    mine = batch.environment == policy.layout.index("a")
    assert mine.any() and not mine.all()
    assert torch.equal(found[~mine], plain[~mine])
    window = {key: x[mine] for key, x in batch.window.items()}
    missed = reader.missed(window, torch.zeros(int(mine.sum()), dtype=torch.long))
    assert torch.allclose(found[mine], plain[mine] + 0.5 * missed) and (missed > 0).all()
    found.sum().backward()
    encoder = next(iter(policy.conditioner.encoders.values()))
    for part in (encoder, policy.beside):
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())


def test_trained_with_it_a_policy_tells_the_goal_and_keeps_nothing_of_the_head(made):
    steps, policy, reader = made
    names = set(policy.state_dict())
    data, telling = data_of(steps, policy, reader), Telling(policy, reader, 1.0, 0.0)
    batch, _ = data.batch(256, 1, 0)
    mine = (batch.environment == policy.layout.index("a")).nonzero()[:, 0]
    window = {key: x[mine] for key, x in batch.window.items()}

    def missed():
        with torch.no_grad():
            return float(reader.missed(window, torch.zeros_like(mine)).mean())

    before = missed()
    settings = TrainSettings(steps=300, batch=64, lr=2e-3, precision="fp32")
    Trainer(policy, data, settings, 0, Goal(loss=telling)).fit()
    assert missed() < 0.1 * before
    finished(policy)
    assert set(policy.state_dict()) == names


def test_it_is_trained_the_same_after_a_copy_through_bytes(made):
    """As other processes of one training get it: encoders stay those of the policy."""
    steps, policy, reader = made
    telling = Telling(policy, reader, 1.0, 0.0)
    there, theirs = copy.deepcopy((policy, telling))
    (encoder,) = there.conditioner.encoders.values()
    assert any(module is encoder for module in theirs.reader.modules())
    assert there.beside is theirs.reader.head


def test_without_eyes_it_is_one_line(tmp_path):
    with pytest.raises(UserError, match="distill.privileged > 0 and policy.encoder.weights = none"):
        eyes_of(NETWORK, "distill.privileged", "cpu")
    there = NETWORK.model_copy(update={"encoder": EncoderSettings(weights=str(tmp_path))})
    with pytest.raises(UserError, match="where no eyes are"):
        eyes_of(there, "distill.privileged", "cpu")
