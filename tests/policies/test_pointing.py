"""The second loss of policies that look and are told: where what each instruction names is."""

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch

from alltrades.data.fields import Field
from alltrades.data.steps import Steps
from alltrades.envs import registry
from alltrades.envs.planar.sentences import COLOURS, MARKS
from alltrades.errors import UserError
from alltrades.policies.learning.batches import demonstration_data
from alltrades.policies.learning.initial import build_policy, make_normalizer
from alltrades.policies.learning.reading import _fitted
from alltrades.policies.learning.training import Trainer
from alltrades.policies.model.encoders import embedding
from alltrades.policies.model.encoders.base import MapEncoder
from alltrades.policies.model.loading import load_policy
from alltrades.policies.model.stacked import StackedPolicy
from alltrades.policies.settings import (
    EncoderSettings,
    PolicySettings,
    TextSettings,
    TrainSettings,
)

SIDE, EPISODES = 16, 120
SPEC = registry.get("planar/marks")
SEEN = replace(
    SPEC.interface,
    observation={"images.top": Field.image(SIDE, SIDE), "instruction": Field.text()},
)
TRAIN = TrainSettings(steps=150, batch=48, lr=4e-3, ema=0.9, precision="fp32")


def embedded(texts):
    """One number for each colour, and one for each of some words."""
    rows = np.zeros((len(texts), 8), np.float32)
    for row, text in zip(rows, texts):
        row[:3] = [colour in text for colour in COLOURS]
        row[3:] = [word in text for word in ("go", "move", "mark", "circle", "the")]
    return rows


@pytest.fixture(autouse=True)
def encoder(monkeypatch):
    monkeypatch.setattr(embedding, "_loaded", lambda name: embedded)
    _fitted.cache_clear()
    yield
    _fitted.cache_clear()


def steps():
    """Single steps: a spot in each colour channel, its place in the state, an idle action."""
    rng = np.random.default_rng(0)
    places = rng.uniform(-0.45, 0.45, (EPISODES, 3, 2)).astype(np.float32)
    grid = np.linspace(-0.5, 0.5, SIDE)
    apart = (places[:, None, None, :, 1] - grid[::-1][:, None, None]) ** 2
    apart = apart + (places[:, None, None, :, 0] - grid[:, None]) ** 2  # (N, H, W, 3)
    state = np.concatenate([np.zeros((EPISODES, 4), np.float32), places.reshape(-1, 6)], axis=1)
    return Steps(
        {"state": state, "images.top": (255 * np.exp(-120 * apart)).astype(np.uint8)},
        rng.uniform(-1, 1, (EPISODES, 2)).astype(np.float32),
        np.ones(EPISODES, bool),
        np.arange(1, EPISODES + 1),
        environment=np.array([SPEC.id] * EPISODES),
        source=np.array(["expert"] * EPISODES),
        seed=np.arange(EPISODES, dtype=np.uint64),
        episode_success=np.ones(EPISODES, bool),
        first_success=np.ones(EPISODES, int),
        has_actions=np.ones(EPISODES, bool),
        return_=np.ones(EPISODES),
        text={"instruction": np.array([MARKS.sentence(i, "training") for i in range(EPISODES)])},
    )


def settings(pointing):
    return PolicySettings(
        width=16,
        depth=1,
        horizon=1,
        n_action_steps=1,
        observe=("images.top", "instruction"),
        encoder=EncoderSettings(film=True),
        text=TextSettings(encoder="made", pointing=pointing),
    )


def made(pointing, demos):
    chosen = settings(pointing)
    return build_policy(chosen, [SEEN], make_normalizer(demos, [SEEN], chosen), 0)


@torch.no_grad()
def off(policy, batch, goal):
    """Mean distance (m) between where a policy points and where the mark of a goal is."""
    count = len(batch.environment)
    said = policy.reading[0].of_goals(torch.full((count,), goal))
    x = policy._normalised(batch.window, batch.environment)
    pointer = policy.pointer
    found = pointer.head(policy.conditioner.looked(x, batch.environment, said))
    found = found * pointer.scale + pointer.mean
    columns = list(MARKS.goals[goal].target)
    return float((found - batch.window["state"][:, -1, columns]).norm(dim=1).mean())


def test_the_second_loss_is_the_squared_error_of_the_place_that_a_drawn_instruction_names():
    demos = steps()
    policy = made(0.2, demos).train()
    with torch.no_grad():
        for parameter in policy.pointer.head.parameters():
            parameter.zero_()  # it points at the mean of all places
    batch = demonstration_data(demos, policy).gather(np.arange(16))
    found = policy._pointing(batch, torch.Generator().manual_seed(3)).detach().numpy()
    drawn = (3 * torch.rand(16, generator=torch.Generator().manual_seed(3))).long().numpy()
    state = np.asarray(demos.observation["state"].take(np.arange(EPISODES)))
    mean, scale = (
        np.array(f([state[:, list(g.target)] for g in MARKS.goals], (0, 1)))
        for f in (np.mean, np.std)
    )
    expected = [
        np.square((state[i, list(MARKS.goals[g].target)] - mean) / scale).mean()
        for i, g in enumerate(drawn)
    ]
    assert set(drawn) == {0, 1, 2}
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_the_second_loss_teaches_the_encoder_and_what_modulates_it():
    demos = steps()
    policy = made(0.2, demos).train()
    batch = demonstration_data(demos, policy).gather(np.arange(16))
    policy._pointing(batch, torch.Generator().manual_seed(0)).sum().backward()
    (film,) = policy.conditioner.films.values()
    encoder = policy.conditioner.encoders[policy.conditioner.module[policy.conditioner.cameras[0]]]
    for parameter in (film.weight, *policy.pointer.head.parameters(), *encoder.parameters()):
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0
    assert all(p.grad is None for p in policy.backbone.parameters())


def test_a_picture_is_looked_at_once_for_both_losses(monkeypatch):
    demos = steps()
    once, twice = made(0.2, demos).train(), made(0.2, demos).train()
    batch = demonstration_data(demos, once).gather(np.arange(16))
    looks = []

    def counted(encoder, frames):
        looks.append(len(frames))
        return maps(encoder, frames)

    (encoder,) = (e for e in once.conditioner.encoders.values() if isinstance(e, MapEncoder))
    maps = type(encoder).maps
    monkeypatch.setattr(type(encoder), "maps", counted)
    found = once.loss(batch, torch.Generator().manual_seed(0))
    assert looks == [16]
    monkeypatch.setattr(twice.conditioner, "one_look", nullcontext)
    wanted = twice.loss(batch, torch.Generator().manual_seed(0))
    assert looks == [16, 16, 16] and torch.equal(found, wanted)
    for own in (found, wanted):
        own.sum().backward()
    for a, b in zip(once.parameters(), twice.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None)
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad)
    once.loss(batch, torch.Generator().manual_seed(0))
    assert looks == [16] * 4  # nothing is kept from one batch to the next


def test_one_picture_is_pointed_at_differently_under_every_instruction():
    demos = steps()
    policy = made(2.0, demos)
    data = demonstration_data(demos, policy)
    batch = data.gather(np.arange(EPISODES))
    before = [off(policy, batch, goal) for goal in range(3)]
    Trainer(policy, data, TRAIN, 0).fit()
    after = [off(policy, batch, goal) for goal in range(3)]
    assert max(after) < 0.5 * min(before)


def test_pointing_is_a_part_of_training_alone_and_of_the_artifact(tmp_path):
    demos = steps()
    policy, plain = made(0.2, demos), made(0.0, demos)
    assert plain.pointer is None and "state" not in plain.layout.slots
    assert "state" not in policy.layout.slots
    data = demonstration_data(demos, policy)
    batch = data.gather(np.arange(16))

    def loss(model):
        return model.loss(batch, torch.Generator().manual_seed(0)).detach()

    assert (loss(policy.train()) > loss(policy.eval())).all()
    policy.save(tmp_path / "policy")
    loaded = load_policy(tmp_path / "policy")
    assert loaded.digest() == policy.digest()
    assert torch.equal(loss(loaded.train()), loss(policy.train()))


def test_what_cannot_be_pointed_at_is_one_line():
    demos = steps()
    unplaced = replace(demos, observation={"images.top": demos.observation["images.top"]})
    with pytest.raises(UserError, match="no episode has 'state'"):
        demonstration_data(unplaced, made(0.2, demos))
    reach = replace(SEEN, id="planar/reach")
    elsewhere = replace(demos, environment=np.array(["planar/reach"] * EPISODES))
    with pytest.raises(UserError, match="no environment says where the things are"):
        make_normalizer(elsewhere, [reach], settings(0.2))
    with pytest.raises(ValueError, match="expected a sentence encoder"):
        TextSettings(pointing=0.2)


def test_a_specialist_learns_to_point_as_the_same_policy_would_alone():
    """Specialists are trained as stacks, also where one has nothing to be stacked with."""
    demos = steps()
    alone, same = made(0.2, demos).train(), made(0.2, demos).train()
    stack = StackedPolicy([same]).train()
    batch = demonstration_data(demos, alone).gather(np.arange(16))
    losses = [p.loss(batch, torch.Generator().manual_seed(0)) for p in (alone, stack)]
    assert torch.equal(*losses)
    for own in losses:
        own.sum().backward()
    pairs = list(zip(alone.parameters(), stack.parameters(), strict=True))
    for one, stacked in pairs:
        assert (one.grad is None) == (stacked.grad is None)
        if one.grad is not None:
            torch.testing.assert_close(stacked.grad[0], one.grad)
    assert alone.pointer.head[0].weight.grad.abs().sum() > 0
    with torch.no_grad():
        for parameter in same.parameters():
            parameter.zero_()
    stack.copy_member(0, same)
    assert all(torch.equal(a, b) for a, b in zip(alone.parameters(), same.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(alone.buffers(), same.buffers()))
