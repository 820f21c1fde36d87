"""Normalised excess losses against closed forms of a linear expert with uniform actions."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression

from alltrades.data.steps import Steps
from alltrades.errors import UserError
from alltrades.policies.learning.batches import demonstration_data
from alltrades.policies.learning.checkpoints import Place
from alltrades.policies.learning.excess import ExcessLoss, affine_denoiser, demonstration_excess
from alltrades.policies.learning.objectives import Tchebycheff
from alltrades.policies.learning.teachers import TeacherPredictions
from alltrades.policies.learning.training import Goal, Trainer
from alltrades.policies.settings import TrainSettings

from .toys import SMALL, fit_demonstrations, info, make_policy, make_steps

ONE = SMALL.model_copy(update={"horizon": 1, "n_action_steps": 1})
INFOS = [info("a"), info("b")]
TRAIN = TrainSettings(steps=500, batch=128, lr=3e-3, ema=0.98, precision="fp32")


@pytest.fixture(scope="module")
def scene():
    """Two environments of which b's actions are half as large, and a policy that knows both
    experts.
    """
    steps = Steps.concatenate(
        [make_steps("a", 20, gain=0.8), make_steps("b", 20, gain=0.4, seed=1)]
    )
    policy = fit_demonstrations(
        steps,
        INFOS,
        ONE,
        TRAIN.model_copy(update={"steps": 2500}),
    ).policy
    return steps, policy


def excess_of(scene, policy, score=None):
    steps, teacher = scene
    data = demonstration_data(steps, policy)
    if score is None:
        return demonstration_excess({"a": teacher, "b": teacher}, data, policy, 0), data
    rows = TeacherPredictions(
        {"x": {"a": teacher, "b": teacher}},
        policy,
        np.zeros(len(data), int),
        np.full(len(data), score),
    )
    return ExcessLoss(rows, data, policy, 0), data


def test_affine_denoiser_is_the_least_squares_fit():
    rng = np.random.default_rng(0)
    clean = torch.tensor(rng.normal(size=(20_000, 2, 2)) @ rng.normal(size=(2, 2)) + 0.5)
    for alpha, sigma in ((0.3, 0.7), (1.0, 0.0), (0.0, 1.0)):
        x_t = alpha * clean + sigma * torch.tensor(rng.normal(size=clean.shape))
        ours = affine_denoiser(
            clean, x_t, torch.full((20_000,), alpha), torch.full((20_000,), sigma)
        )
        fit = LinearRegression().fit(x_t.flatten(1).numpy(), clean.flatten(1).numpy())
        theirs = fit.predict(x_t.flatten(1).numpy())
        assert np.abs(ours.flatten(1).numpy() - theirs).max() < 0.1
        assert (
            np.mean((ours - clean).numpy() ** 2)
            <= np.mean((theirs - clean.flatten(1).numpy()) ** 2) * 1.01 + 1e-9
        )


def test_scale_is_the_affine_error_where_the_teacher_knows_the_action(scene):
    """Uniform actions of variance v: the affine error at t is v t^2 / ((1 - t)^2 v + t^2),
    integrated over t in [0, 1].
    """
    _, teacher = scene
    loss, _ = excess_of(scene, teacher)
    t = (np.arange(10_000) + 0.5) / 10_000
    for k, gain in enumerate((0.8, 0.4)):
        v = gain**2 / 3 / float(teacher.normalizer.action_scale[k].mean()) ** 2
        truth = np.mean(v * t**2 / ((1 - t) ** 2 * v + t**2))
        assert float(loss.scale[k]) == pytest.approx(truth, rel=0.08)


@pytest.mark.parametrize("score", [None, True, False])
def test_teacher_has_no_excess_and_an_untrained_network_about_that_of_ignoring_the_state(
    scene, score
):
    _, teacher = scene
    loss, data = excess_of(scene, teacher, score)
    batch, rows = data.batch(2048, 0, 0)
    with torch.inference_mode():
        assert torch.equal(
            loss(teacher, batch, torch.Generator().manual_seed(0), rows), torch.zeros(2048)
        )
        untrained = make_policy(INFOS, ONE)
        untrained.normalizer = teacher.normalizer
        value = loss(untrained, batch, torch.Generator().manual_seed(0), rows)
    for k in (0, 1):  # predicts the mean whatever it sees: somewhat worse than the affine predictor
        assert 1.0 < float(value[batch.environment == k].mean()) < 2.5


def test_score_rows_measure_the_distance_to_the_teacher(scene):
    """On score rows the value is |g - h|^2 / C, the same for every chunk noise; recorded rows
    subtract two errors.
    """
    _, teacher = scene
    other = make_policy(INFOS, ONE, seed=3)
    other.normalizer = teacher.normalizer
    loss, data = excess_of(scene, other, True)
    batch, rows = data.batch(64, 0, 0)
    with torch.inference_mode():
        value = loss(other, batch, torch.Generator().manual_seed(0), rows)
        x_t, t, _ = other.noised(batch, torch.Generator().manual_seed(0))
        h = teacher.backbone(x_t, t, teacher.condition(batch.window, batch.environment))
        g = other.backbone(x_t, t, other.condition(batch.window, batch.environment))
    assert torch.allclose(
        value * loss.scale[batch.environment], (g - h).square().mean((1, 2)), atol=1e-6
    )


def test_teachers_with_other_units_are_refused(scene):
    _, teacher = scene
    with pytest.raises(UserError, match="excess losses need one action scale.*objective: linear"):
        excess_of(scene, make_policy(INFOS, ONE, seed=4))
    vp = make_policy(INFOS, ONE.model_copy(update={"process": "vp", "sampler": "ddim"}))
    vp.normalizer = teacher.normalizer
    with pytest.raises(UserError, match="equal process"):
        excess_of(scene, vp)


@pytest.mark.parametrize("stop", [10, 13, 29])
def test_training_for_the_worst_environment_resumes_to_the_same_bits(scene, tmp_path, stop):
    """The objective's running averages are part of the checkpoint."""
    settings = TRAIN.model_copy(update={"steps": 30, "batch": 16, "checkpoint_every": 10})

    def trainer(total=None):
        policy = make_policy(INFOS, ONE)
        policy.normalizer = scene[1].normalizer
        loss, data = excess_of(scene, policy)
        return Trainer(
            policy,
            data,
            settings,
            3,
            Goal(Tchebycheff(["a", "b"], {"a": 1, "b": 2}, 0.1, 0.9), loss),
            total=total,
        )

    whole = trainer()
    whole.fit()
    trainer(stop).fit(Place(tmp_path))  # leaves the checkpoint of step 10 or 20 behind
    resumed = trainer()
    resumed.fit(Place(tmp_path))
    for a, b in zip(whole.policy.state_dict().values(), resumed.policy.state_dict().values()):
        assert torch.equal(a, b)
    assert torch.equal(whole.objective.average, resumed.objective.average)
    forgetful = trainer()
    forgetful.restore(tmp_path)
    forgetful.objective.load_state_dict(Tchebycheff(["a", "b"]).state_dict())
    forgetful.fit()
    if stop > 10:
        assert not all(
            torch.equal(a, b)
            for a, b in zip(
                whole.policy.state_dict().values(), forgetful.policy.state_dict().values()
            )
        )
