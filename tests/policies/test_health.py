"""A training that learns nothing any more ends, and leaves what it had."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from alltrades.policies.learning.batches import demonstration_data
from alltrades.policies.learning.checkpoints import Place, read_checkpoint
from alltrades.policies.learning.health import (
    EXPLODED,
    Diverged,
    Health,
    settings_called,
)
from alltrades.policies.learning.initial import build_policy
from alltrades.policies.learning.stacked_training import Candidate, Learner, fit_learners
from alltrades.policies.learning.training import Goal, Trainer
from alltrades.policies.model.finite import first_unfinite
from alltrades.policies.settings import TrainSettings
from alltrades.system.reporting import Report

from .toys import SMALL, info, make_policy, make_steps

TRAIN = TrainSettings(steps=20, batch=8, checkpoint_every=5, log_every=50, precision="fp32")
REPORT = Report(name="distill/generalist")


def trainer(loss=None, steps=None, train=TRAIN):
    policy = make_policy([info("a")])
    data = demonstration_data(make_steps() if steps is None else steps, policy)
    return Trainer(policy, data, train, 3, Goal(loss=loss))


def spoiled(at, value):
    """The denoising loss, which at step `at`, counted from 1, is multiplied by a value."""
    done = [0]

    def loss(policy, batch, generator, rows):
        done[0] += 1
        return policy.loss(batch, generator) * (value if done[0] >= at else 1.0)

    return loss


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_the_training_and_keeps_the_checkpoint_before(
    tmp_path, value
):
    with pytest.raises(Diverged) as caught, settings_called("distill.train"):
        trainer(spoiled(13, value)).fit(Place(tmp_path), REPORT)
    line = str(caught.value)
    assert line.startswith(
        f"distill/generalist: training diverged at step 13: its loss is {value}; expected"
    )
    assert "lower distill.train.lr (now 0.001)" in line and "\n" not in line
    assert line.endswith("the checkpoint of step 10 is kept")
    tensors, facts = read_checkpoint(tmp_path, torch.device("cpu"))
    assert facts["step"] == 10 and first_unfinite(tensors) is None


def test_a_mended_training_goes_on_from_the_last_good_checkpoint(tmp_path):
    with pytest.raises(Diverged):
        trainer(spoiled(13, float("nan"))).fit(Place(tmp_path))
    mended, steps = trainer(), []
    found = mended.fit(Place(tmp_path), Report(lambda done, _: steps.append(done)))
    assert steps == list(range(11, 21))
    for a, b in zip(trainer().fit().parameters(), found.parameters()):
        assert torch.equal(a, b)


def test_without_a_checkpoint_the_line_says_that_nothing_was_written(tmp_path):
    with pytest.raises(Diverged, match="at step 3: .*; nothing was written of it yet$"):
        trainer(spoiled(3, float("nan"))).fit(Place(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_loss_that_explodes_ends_the_training(tmp_path):
    train = TRAIN.model_copy(update={"steps": 200})
    with pytest.raises(Diverged, match=r"its loss has exploded \(first 0\.\d+, median of the last"):
        trainer(spoiled(60, 1e4), train=train).fit(Place(tmp_path))
    assert not any("checkpoint-2" in p.name for p in tmp_path.iterdir())


def test_losses_of_a_few_outliers_do_not_end_a_training():
    health, rng = Health([500]), np.random.default_rng(0)
    losses = rng.uniform(0.5, 1.0, (500, 1))
    losses[rng.choice(np.arange(1, 500), 100, replace=False)] = 1e4
    assert all(health.look(part) is None for part in np.split(losses, 10))


def test_an_explosion_is_measured_against_the_first_loss():
    high = np.full((60, 2), [[1.0, 400.0]])
    assert Health([60, 60]).look(high) is None
    high[20:, 1] *= 2 * EXPLODED
    step, network, what = Health([60, 60]).look(high)
    assert (step, network) == (59, 1) and "first 400" in what


def test_losses_are_kept_as_the_mean_of_each_quarter_up_to_the_stop_of_a_network():
    health, losses = Health([8, 4]), np.arange(16.0).reshape(8, 2)
    assert health.look(losses[:3]) is None and health.course() == ()
    resumed = Health([8, 4])
    resumed.restore(json.loads(json.dumps(health.state())))
    resumed.look(losses[3:])
    assert resumed.course() == (1.0, 5.0, 9.0, 13.0)
    assert resumed.course(1) == (1.0, 3.0, 5.0, 7.0)


def test_a_gradient_that_is_not_finite_at_the_last_step_gives_no_policy(tmp_path):
    """The loss is finite, and the derivative of its root at 0 is not."""

    def loss(policy, batch, generator, rows):
        return (policy.loss(batch, generator) * 0).sqrt()

    with pytest.raises(Diverged, match="at step 1: its weights '.*' are not finite"):
        trainer(loss, train=TRAIN.model_copy(update={"steps": 1})).fit(Place(tmp_path))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("what", ["observation state", "actions"])
def test_data_that_are_not_finite_are_named_with_their_environment_and_episode(what):
    steps = make_steps()
    policy = make_policy([info("a")])
    rows = steps.action if what == "actions" else steps.observation["state"]
    rows = np.array(rows.load() if hasattr(rows, "load") else rows)
    rows[47] = np.nan
    field = {"action": rows} if what == "actions" else {"observation": {"state": rows}}
    data = demonstration_data(replace(steps, **field), policy)
    with pytest.raises(Diverged) as caught:
        Trainer(policy, data, TRAIN, 3).fit()
    assert f"for {what} of 'a' are not finite" in str(caught.value)
    assert "in episode 2 of it" in str(caught.value) and "mend or leave out" in str(caught.value)


def members(gains=(1.0, 1.0, 1.0), train=TRAIN):
    out = []
    for name, gain in zip("abc", gains):
        policy = make_policy([info(name)])
        steps = make_steps(name)
        if not np.isfinite(gain):
            actions = np.array(steps.action.load())
            actions[:] = gain
            steps = replace(steps, action=actions)
        out.append(
            Learner(
                info(name), steps, policy.normalizer, Candidate("small", SMALL, train), 1, steps
            )
        )
    return out


def test_the_specialist_that_diverges_is_named_among_those_trained_with_it(tmp_path):
    with pytest.raises(Diverged, match="^specialist of b: training diverged at step 1: .*'b'"):
        fit_learners(members((1.0, float("nan"), 1.0)), place=Place(tmp_path))
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_candidate_that_diverges_loses_against_those_beside_it():
    found = fit_learners(members((1.0, float("nan"), 1.0)), lose=True)
    lost = [not np.isfinite(list(x.curve.values())).any() for x in found]
    assert lost == [False, True, False]


def test_a_stacked_training_names_its_setting_and_learning_rate():
    train = TRAIN.model_copy(update={"lr": 1e30})
    with pytest.raises(Diverged) as caught, settings_called("specialist.train"):
        fit_learners(members(train=train))
    assert "specialist of a" in str(caught.value)
    assert "lower specialist.train.lr (now 1e+30)" in str(caught.value)


def test_a_policy_with_the_learning_rate_of_its_default_is_left_alone():
    policy = build_policy(SMALL, [info("a")], make_policy([info("a")]).normalizer, 0)
    Trainer(policy, demonstration_data(make_steps(), policy), TRAIN, 0).fit()
