"""A generalist that is told which episodes went well, and is asked for such a one when it acts."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from alltrades.data.steps import Steps
from alltrades.data.weights.estimate import estimate_weights
from alltrades.data.weights.settings import WeightSettings
from alltrades.policies.learning.batches import UNSAID, TrainingData
from alltrades.policies.learning.distillation import (
    RECORDED,
    Targets,
    add_visits,
    label_rows,
    stage2_rows,
)
from alltrades.policies.learning.initial import build_policy, make_normalizer
from alltrades.policies.learning.training import Trainer
from alltrades.policies.model.growth import grown
from alltrades.policies.model.loading import load_policy
from alltrades.policies.model.policy import DiffusionPolicy
from alltrades.policies.model.statistics import measure
from alltrades.policies.onnx.export import compiled
from alltrades.policies.settings import TrainSettings

from .toys import SMALL, info, make_policy, make_steps

SETTINGS = SMALL.model_copy(
    update={"horizon": 1, "n_action_steps": 1, "outcome_input": True, "clip": None}
    | {"width": 64, "depth": 2, "sampling_steps": 8}
)
INFO = info("a")
TRAIN = TrainSettings(steps=1200, batch=256, lr=3e-3, ema=0.98)


def rollouts() -> Steps:
    """At equal observations those that succeed go 0.8 of them one way, the others the other way."""
    good = make_steps(episodes=30, gain=0.8, seed=1, source="scratch")
    bad = make_steps(episodes=30, gain=-0.8, seed=2, source="scratch")
    bad = replace(bad, episode_success=np.zeros(30, bool))
    return Steps.concatenate([good, bad])


def told_rows(targets: Targets | None = None):
    demos, rolled = make_steps(episodes=2, gain=0.8), rollouts()
    weights = estimate_weights(demos, rolled, WeightSettings(kind="none"), np.random.default_rng(0))
    targets = targets or Targets(True, False, 0.25, told=0.5)
    return stage2_rows(demos, rolled, {"a": weights}, ["scratch"], targets), rolled


@pytest.fixture(scope="module")
def policy() -> DiffusionPolicy:
    rows, rolled = told_rows()
    made = build_policy(SETTINGS, [INFO], make_normalizer(rolled, [INFO], SETTINGS), 0)
    return Trainer(made, TrainingData(rows, made), TRAIN, 0).fit()


def actions(policy: DiffusionPolicy, guidance: float) -> tuple[np.ndarray, np.ndarray]:
    """What was seen and drawn (N, 2), where good and bad actions are far apart."""
    policy.settings = policy.settings.model_copy(update={"guidance": guidance})
    rng = torch.Generator().manual_seed(0)
    window = torch.rand(2000, 1, 3, generator=rng) * 2 - 1
    window = window[window[:, 0, :2].norm(dim=1) > 0.5]
    noise = torch.randn(len(window), 1, 2, generator=rng)
    with torch.inference_mode():
        where = torch.zeros(len(window), dtype=torch.long)
        chunk = policy.sample({"state": window}, where, noise)
    return window[:, 0, :2].numpy(), chunk[:, 0].numpy()


def share_of_good(policy: DiffusionPolicy, guidance: float) -> float:
    seen, drawn = actions(policy, guidance)
    return float(((seen * drawn).sum(1) > 0).mean())


def test_policy_acts_as_the_good_episodes_do_and_without_guidance_as_all_do(policy):
    seen, drawn = actions(policy, 1.0)
    assert np.abs(drawn - 0.8 * seen).mean() < 0.12
    assert share_of_good(policy, 1.0) > 0.97
    assert share_of_good(policy, 0.0) == pytest.approx(0.5, abs=0.12)


def test_guidance_beyond_one_is_what_its_formula_says(policy):
    """free + 2 (good - free) at every call of the network, against calls made by hand."""
    policy.settings = policy.settings.model_copy(update={"guidance": 2.0, "sampling_steps": 1})
    window = {"state": torch.rand(8, 1, 3)}
    where, noise = torch.zeros(8, dtype=torch.long), torch.randn(8, 1, 2)
    with torch.inference_mode():
        found = policy.sample(window, where, noise)
        t = torch.ones(8)  # where sampling begins, all is noise
        each = []
        for outcome in (0.0, 1.0):
            condition = policy.condition(window, where, outcome=torch.full((8,), outcome))
            each.append(policy.backbone(noise, t, condition))
        clean = policy.normalizer.unaction(each[0] + 2 * (each[1] - each[0]), where)
    policy.settings = SETTINGS
    assert torch.allclose(found, clean, atol=1e-5)


@pytest.mark.parametrize("guidance", [0.0, 1.0, 2.5])
def test_artifact_and_exported_graph_act_alike(tmp_path, guidance):
    policy = make_policy([INFO, info("b")], SETTINGS.model_copy(update={"guidance": guidance}))
    policy.save(tmp_path / "p", {})
    again, graph = load_policy(tmp_path / "p"), compiled(policy)
    rng = np.random.default_rng(0)
    for rows in (1, 5):
        window = {"state": rng.normal(size=(rows, 1, 3)).astype(np.float32)}
        where = np.arange(rows) % 2
        noise = rng.normal(size=(rows, policy.draws, 1, 2)).astype(np.float32)
        found = policy.act(window, where, noise)
        np.testing.assert_array_equal(again.act(window, where, noise), found)
        np.testing.assert_allclose(graph.act(window, where, noise), found, atol=1e-4)


def test_rows_tell_outcomes_of_executed_actions_alone():
    rows, rolled = told_rows()
    n_demo = int(rows.demonstration.sum())
    good = rolled.episode_success[rolled.episode_of_step]
    assert set(rows.teacher[:n_demo]) == {RECORDED}  # they have no share here
    assert (rows.outcome[n_demo:] == np.where(good, 1, -1)).all()
    drawn = rows.probability[n_demo:]
    assert drawn[good].sum() == pytest.approx(drawn[~good].sum())  # failures are kept
    returns = replace(
        rolled, first_success=np.full(60, -2), return_=np.arange(60.0)
    )  # where nothing says success, the best returns stand for it
    assert not returns.tells_success
    weights = estimate_weights(
        make_steps(episodes=2), returns, WeightSettings(kind="mixture"), np.random.default_rng(0)
    )
    again = stage2_rows(
        make_steps(episodes=2),
        returns,
        {"a": weights},
        ["scratch"],
        Targets(True, False, 0.25, told=0.25),
    )
    assert (again.outcome[n_demo:] == np.where(np.arange(60) >= 45, 1, -1).repeat(20)).all()
    assert (again.outcome[:n_demo] == 0).all()  # chunks that the teacher draws there


def test_a_tenth_of_a_batch_does_not_tell_its_outcome(policy):
    rows, _ = told_rows()
    batch, chosen = TrainingData(rows, policy).batch(20_000, 0, 3)
    said = batch.outcome != 0
    assert float(said.float().mean()) == pytest.approx(1 - UNSAID, abs=0.01)
    assert (batch.outcome[said].numpy() == rows.outcome[chosen][said.numpy()]).all()


def test_visits_of_a_round_keep_failures_where_rows_tell_outcomes():
    rows, _ = told_rows()
    visited = make_steps(episodes=4, seed=9)
    visited = replace(visited, episode_success=np.array([True, False, True, False]))
    found = add_visits(rows, [(visited, {"a": RECORDED})], 0.5)
    new = found.outcome[len(rows.outcome) :]
    assert (new == np.repeat([1, -1, 1, -1], 20)).all()
    assert found.probability[len(rows.outcome) :].sum() == pytest.approx(0.5)
    blind = add_visits(replace(rows, outcome=None), [(visited, {"a": RECORDED})], 0.5)
    assert blind.outcome is None and len(blind.teacher) == len(rows.teacher) + 40
    teacher = make_policy([INFO], SETTINGS)
    labelled = label_rows(
        add_visits(rows, [(visited, {"a": 0})], 0.5), {"scratch": {"a": teacher}}, steps=8, seed=0
    )
    assert (labelled.outcome[len(rows.outcome) :] == 0).all()


def test_a_policy_that_grew_is_guided_as_before():
    policy = make_policy([INFO], SETTINGS.model_copy(update={"guidance": 3.0, "width": 16})).eval()
    larger = info("c", obs_dim=5, action_dim=2)
    rng = np.random.default_rng(0)
    seen, acted = rng.normal(size=(50, 5)).astype(np.float32), rng.uniform(-1, 1, (50, 2))
    wider = grown(policy, [larger], [measure(larger, {"state": seen}, acted)]).eval()
    window = rng.normal(size=(4, 1, 3)).astype(np.float32)
    noise = rng.normal(size=(4, policy.draws, 1, 2)).astype(np.float32)
    where = np.zeros(4, dtype=np.int64)
    padded = np.pad(window, ((0, 0), (0, 0), (0, 2)))
    np.testing.assert_array_equal(
        wider.act({"state": padded}, where, noise), policy.act({"state": window}, where, noise)
    )
