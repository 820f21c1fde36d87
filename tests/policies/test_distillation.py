from dataclasses import replace

import numpy as np
import pytest
import torch

from alltrades.data.steps import Steps
from alltrades.data.weights.estimate import estimate_weights
from alltrades.data.weights.settings import WeightSettings
from alltrades.errors import UserError
from alltrades.policies.learning.batches import TrainingData
from alltrades.policies.learning.diagnosis import (
    demonstration_error,
    distillation_gap,
    neighbour_error,
)
from alltrades.policies.learning.distillation import (
    RECORDED,
    Targets,
    add_visits,
    label_rows,
    score_loss,
    stage2_rows,
)
from alltrades.policies.learning.initial import build_policy
from alltrades.policies.learning.training import Goal, Trainer
from alltrades.policies.settings import TrainSettings

from .toys import SMALL, fit_demonstrations, info, make_policy, make_steps

SMALL = SMALL.model_copy(
    update={"horizon": 1, "n_action_steps": 1}
)  # longer chunks of random states have no truth to learn
TRAIN = TrainSettings(steps=500, batch=128, lr=3e-3, ema=0.98)
INFO = info("a")


def _weights(demos, rollouts, kind="none", **more):
    return {
        "a": estimate_weights(
            demos, rollouts, WeightSettings(kind=kind, **more), np.random.default_rng(0)
        )
    }


def _teacher(steps):
    return fit_demonstrations(steps, [INFO], SMALL, TRAIN).policy


@pytest.fixture(scope="module")
def scene():
    demos = make_steps(episodes=20)
    teacher = _teacher(demos)
    return demos, make_steps(episodes=30, seed=5, source="scratch"), teacher


@pytest.fixture(scope="module")
def other():
    """A teacher that does the opposite."""
    return _teacher(make_steps(episodes=20, gain=-0.5))


def _rows(scene, kind="none", **more):
    demos, rollouts, teacher = scene
    options = {
        "executed": kind.startswith("success"),
        "reuse_labels": False,
        "demo_share": 0.25,
    } | more
    return stage2_rows(
        demos,
        rollouts,
        _weights(demos, rollouts, kind),
        ["scratch"],
        Targets(**options),
    )


def test_episodes_without_actions_are_labelled_by_the_teacher(
    scene,
):
    demos, rollouts, teacher = scene
    seen = np.arange(len(demos.ends)) % 2 == 0
    demos = replace(
        demos, has_actions=seen, action=np.where(seen[demos.episode_of_step, None], demos.action, 0)
    )
    rows = label_rows(
        _rows((demos, rollouts, teacher), "success", reuse_labels=True),
        {"scratch": {"a": teacher}},
        steps=20,
        seed=0,
    )
    unseen = np.flatnonzero(~seen[demos.episode_of_step])
    assert set(np.flatnonzero(rows.teacher >= 0)) == set(unseen)
    assert rows.probability[unseen].sum() == pytest.approx(
        0.125
    )  # their part of the share of demonstrations
    batch = TrainingData(rows, teacher).gather(unseen)
    right = 0.5 * batch.window["state"][:, 0, :2]  # what the actions would have been
    assert (batch.action[:, 0] - right).square().mean() < 0.1 * right.square().mean()


@pytest.mark.parametrize("apply", ["sample", "loss"])
@pytest.mark.parametrize("kind", ["none", "success"])
def test_episodes_without_actions_enter_where_weights_leave_all_demonstrations_out(
    scene, kind, apply
):
    demos, rollouts, teacher = scene
    rows = _rows(scene, kind, apply=apply)
    assert not rows.probability[rows.demonstration].any()
    seen = np.arange(len(demos.ends)) % 4 > 0
    rows = _rows((replace(demos, has_actions=seen), rollouts, teacher), kind, apply=apply)
    unseen = np.flatnonzero(~seen[demos.episode_of_step])
    assert (
        set(np.flatnonzero(rows.probability[rows.demonstration])) == set(unseen)
        and (rows.teacher[unseen] == 0).all()
    )
    assert rows.probability[unseen].sum() == pytest.approx(
        0.25
    ) and rows.probability.sum() == pytest.approx(1)


@pytest.mark.parametrize("targets", ["noise", "score"])
def test_generalist_of_the_same_class_copies_its_teacher(scene, targets):
    """Same class, much data: E|g - h|^2 is at most 2 % of that of a predictor that does not see the
    state.
    """
    demos, rollouts, teacher = scene
    rows = label_rows(_rows(scene), {"scratch": {"a": teacher}}, steps=20, seed=0)
    policy = build_policy(SMALL, [INFO], teacher.normalizer, 1)
    loss = score_loss(rows, {"scratch": {"a": teacher}}, policy) if targets == "score" else None
    Trainer(
        policy,
        TrainingData(rows, policy),
        TRAIN,
        0,
        Goal(loss=loss),
    ).fit()
    window = torch.rand(512, 1, 3) * 2 - 1
    noise = torch.randn(512, 1, 2)
    environment = torch.zeros(512, dtype=torch.long)
    with torch.inference_mode():
        h = teacher.sample({"state": window}, environment, noise)
        g = policy.sample({"state": window}, environment, noise)
        blind = teacher.sample({"state": window[torch.randperm(512)]}, environment, noise)
    assert (g - h).square().mean() <= 0.02 * (blind - h).square().mean()


def test_unfiltered_rows_are_labelled_by_their_teacher_and_filtered_rows_keep_executed_actions(
    scene,
):
    demos, rollouts, teacher = scene
    labelled = label_rows(_rows(scene), {"scratch": {"a": teacher}}, steps=20, seed=0)
    n = len(demos)
    assert (labelled.labels.of_row[n:] >= 0).all()
    filtered = label_rows(
        _rows(scene, "success", reuse_labels=True), {"scratch": {"a": teacher}}, steps=20, seed=0
    )
    assert (filtered.labels.of_row == -1).all()
    assert np.isclose(filtered.probability[:n].sum(), 0.25) and np.isclose(
        filtered.probability.sum(), 1.0
    )


def test_failed_rollouts_have_no_mass_under_the_success_filter(scene):
    demos, rollouts, teacher = scene
    failed = np.arange(30) % 3 == 0
    rollouts = replace(rollouts, episode_success=~failed)
    rows = _rows((demos, rollouts, teacher), "success", reuse_labels=True)
    mass = rows.probability[len(demos) :]
    assert mass[failed[rollouts.episode_of_step]].sum() == 0 and np.isclose(mass.sum(), 0.75)


def test_environment_without_a_success_falls_back_to_its_demonstrations(scene):
    demos, rollouts, teacher = scene
    rollouts = replace(rollouts, episode_success=np.zeros(30, bool))
    rows = _rows((demos, rollouts, teacher), "success", reuse_labels=True)
    assert np.isclose(rows.probability[: len(demos)].sum(), 1.0)


@pytest.mark.parametrize("reuse_labels", [False, True])
@pytest.mark.parametrize("kind", ["ratio", "success"])
def test_weights_are_applied_once_with_equal_expected_gradients_whichever_way(
    scene, kind, reuse_labels
):
    demos, rollouts, teacher = scene
    rollouts = replace(rollouts, episode_success=np.arange(30) % 3 > 0)
    sample, factor = (
        _rows((demos, rollouts, teacher), kind, reuse_labels=reuse_labels, apply=apply)
        for apply in ("sample", "loss")
    )
    assert np.allclose(sample.loss_weight, 1.0) and sample.probability.sum() == pytest.approx(1.0)
    assert np.allclose(factor.probability * factor.loss_weight, sample.probability, atol=1e-9)
    assert not reuse_labels or sample.probability[sample.demonstration].sum() == pytest.approx(0.25)
    policy = build_policy(SMALL, [INFO], teacher.normalizer, 1)
    found = []
    for rows in (sample, factor):  # over all rows at once, the expectation is a sum
        rows = label_rows(rows, {"scratch": {"a": teacher}}, steps=1, seed=0)
        used = np.flatnonzero(rows.probability)
        batch = TrainingData(rows, policy).gather(used)
        share = torch.from_numpy(rows.probability[used]).float()
        generators = [
            torch.Generator().manual_seed(int(i)) for i in used
        ]  # noise of a row is its own
        loss = (policy.loss(batch, generators) * batch.loss_weight * share).sum()
        found.append(
            torch.cat(
                [
                    g.flatten()
                    for g in torch.autograd.grad(loss, list(policy.parameters()), allow_unused=True)
                    if g is not None
                ]
            )
        )
    scale = found[0].abs().max()
    assert scale > 0 and torch.allclose(found[0], found[1], atol=1e-5 * float(scale))


def test_rollouts_of_a_source_that_is_no_teacher_are_refused(scene):
    demos, rollouts, teacher = scene
    with pytest.raises(UserError, match="rollouts come from 'other'; .* here scratch"):
        _rows((demos, replace(rollouts, source=np.full(30, "other")), teacher))


@pytest.mark.parametrize(
    ("sampler", "wanted", "taken"),
    [("ddpm", 3, 4), ("ddim", 8, 8), ("ddim", 20, 12), ("ddpm", 20, 12)],
)
def test_a_diffusion_teacher_labels_with_the_steps_asked_for_up_to_those_of_its_training(
    scene, sampler, wanted, taken
):
    demos, rollouts, _ = scene
    settings = SMALL.model_copy(
        update={"process": "vp", "sampler": sampler, "diffusion_steps": 12, "sampling_steps": 4}
    )
    teacher = make_policy([INFO], settings)
    calls = []
    teacher.backbone.register_forward_hook(lambda *_: calls.append(1))
    rows = _rows((demos, rollouts, teacher))
    labels = label_rows(rows, {"scratch": {"a": teacher}}, steps=wanted, seed=0).labels.chunks
    batches = -(-len(labels) // 1024)
    assert len(calls) == taken * batches and labels.std() > 0
    assert np.array_equal(
        labels, label_rows(rows, {"scratch": {"a": teacher}}, steps=wanted, seed=0).labels.chunks
    )
    assert (
        distillation_gap(teacher, {"scratch": {"a": teacher}}, rows, "a", np.random.default_rng(0))
        == 0.0
    )
    assert demonstration_error(teacher, demos, "a", np.random.default_rng(0)) > 0


def test_labels_do_not_depend_on_how_rows_are_batched_per_kind(scene):
    teacher = scene[2]
    a = label_rows(_rows(scene), {"scratch": {"a": teacher}}, steps=20, seed=0)
    b = label_rows(_rows(scene), {"scratch": {"a": teacher}}, steps=20, seed=0)
    assert np.array_equal(a.labels.chunks, b.labels.chunks)


def test_score_targets_refuse_another_action_scale(scene):
    teacher = scene[2]
    other = make_policy([INFO], SMALL, seed=4)
    with pytest.raises(UserError, match="one action scale"):
        score_loss(_rows(scene), {"scratch": {"a": teacher}}, other)
    vp = make_policy([INFO], SMALL.model_copy(update={"process": "vp", "sampler": "ddim"}))
    with pytest.raises(UserError, match="equal process"):
        score_loss(_rows(scene), {"scratch": {"a": teacher}}, vp)


def test_gap_is_zero_for_the_teacher_itself_and_large_for_an_untrained_network(scene):
    teacher = scene[2]
    rows = _rows(scene)
    rng = np.random.default_rng(0)
    assert distillation_gap(teacher, {"scratch": {"a": teacher}}, rows, "a", rng) == 0.0
    untrained = build_policy(SMALL, [INFO], teacher.normalizer, 9)
    assert distillation_gap(untrained, {"scratch": {"a": teacher}}, rows, "a", rng) > 0.5


def test_gap_is_measured_on_rollout_states_alone_whoever_recorded_the_demonstrations(scene):
    demos, rollouts, teacher = scene
    untrained = build_policy(SMALL, [INFO], teacher.normalizer, 9)
    scenes = [
        (replace(demos, source=np.full(20, s)), rollouts, teacher)
        for s in ("expert", "demo", "scratch")
    ]
    gaps = [
        distillation_gap(
            untrained,
            {"scratch": {"a": teacher}},
            _rows(s, reuse_labels=True),
            "a",
            np.random.default_rng(0),
        )
        for s in scenes
    ]
    assert gaps[0] == gaps[1] == gaps[2]


@pytest.mark.parametrize("kind", ["none", "success"])
def test_gap_is_that_to_the_teacher_who_labels_a_row_or_acted_there(scene, other, kind):
    """Rollouts of a second teacher with another law: a copy of it is no copy of the first,
    whichever is named first.
    """
    (demos, _, first), second = scene, other
    visited = make_steps(episodes=30, seed=6, source="labeled_only")
    rows = stage2_rows(
        demos,
        visited,
        _weights(demos, visited, kind),
        ["scratch", "labeled_only"],
        Targets(executed=kind == "success", reuse_labels=True, demo_share=0.25),
    )
    teachers = {"scratch": {"a": first}, "labeled_only": {"a": second}}
    assert distillation_gap(second, teachers, rows, "a", np.random.default_rng(0)) == 0.0
    assert distillation_gap(first, teachers, rows, "a", np.random.default_rng(0)) > 1


def test_error_on_demonstrations_is_that_of_a_policy_that_learned_them_or_did_not(scene):
    demos, _, teacher = scene
    assert demonstration_error(teacher, demos, "a", np.random.default_rng(0)) < 0.02
    other = make_steps(episodes=20, gain=-0.5)
    # a = -x where the policy answers x: E (2x)^2 / E x^2, less what the best of several draws gains
    assert 3 < demonstration_error(teacher, other, "a", np.random.default_rng(0)) < 4.2
    without = replace(demos, has_actions=np.zeros(20, bool))
    assert demonstration_error(teacher, without, "a", np.random.default_rng(0)) is None


def test_neighbours_of_other_episodes_predict_what_the_state_determines_and_nothing_else(scene):
    demos, _, teacher = scene
    rng = np.random.default_rng(0)
    assert neighbour_error(teacher, demos, "a", rng) < 0.2
    of_episode = replace(
        demos, action=np.repeat(rng.uniform(-1, 1, (20, 2)), 20, axis=0).astype(np.float32)
    )
    assert (
        neighbour_error(teacher, of_episode, "a", rng) > 0.9
    )  # every episode has an action of its own: the rest say nothing
    assert neighbour_error(teacher, demos.select(np.arange(20) < 1), "a", rng) is None


def test_permuting_environment_ids_hurts():
    """Two environments whose experts disagree at equal observations: the id is what tells them
    apart.
    """
    infos = [info("a"), info("b")]
    steps = Steps.concatenate(
        [make_steps("a", episodes=20, gain=0.8), make_steps("b", episodes=20, seed=1, gain=-0.8)]
    )
    policy = fit_demonstrations(steps, infos, SMALL, TRAIN).policy
    window, noise = torch.rand(256, 1, 3) * 2 - 1, torch.randn(256, 1, 2)
    environment = torch.arange(256) % 2
    truth = window[:, 0, :2] * torch.tensor([0.8, -0.8])[environment][:, None]
    with torch.inference_mode():
        right = (policy.sample({"state": window}, environment, noise)[:, 0] - truth).square().mean()
        wrong = (
            (policy.sample({"state": window}, 1 - environment, noise)[:, 0] - truth).square().mean()
        )
    assert wrong > 10 * right


def test_visits_of_a_round_take_their_share_with_weight_one(scene):
    demos, rollouts, teacher = scene
    visited = make_steps(episodes=9, seed=8, source="round")
    before = _rows(scene)
    rows = add_visits(before, [(visited, {"a": 0})], 0.4)
    new = slice(len(before.teacher), None)
    assert rows.probability[new].sum() == pytest.approx(0.4 * before.probability.sum())
    assert (
        np.allclose(rows.probability[: new.start], 0.6 * before.probability)
        and (rows.loss_weight[new] == 1).all()
    )
    per_episode = np.bincount(visited.episode_of_step, rows.probability[new])
    assert np.allclose(per_episode, per_episode[0]) and (rows.teacher[new] == 0).all()


def test_executed_actions_of_visits_are_learned_from_successes_only(scene):
    visited = make_steps(episodes=6, seed=8, source="round")
    visited = replace(visited, episode_success=np.arange(6) % 2 == 0)
    before = _rows(scene)
    rows = add_visits(before, [(visited, {"a": RECORDED}), (visited, {})], 0.5)
    assert len(rows.teacher) - len(before.teacher) == visited.lengths[::2].sum()
    assert (rows.teacher[len(before.teacher) :] == RECORDED).all() and rows.steps.episode_success[
        -3:
    ].all()
    assert rows.probability[: len(before.teacher)].sum() == pytest.approx(
        rows.probability[len(before.teacher) :].sum()
    )
