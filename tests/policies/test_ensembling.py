"""Temporal ensembling against the published sum, written out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from alltrades.errors import UserError
from alltrades.policies.control.controller import Controller
from alltrades.policies.control.ensembling import Ensembling
from tests.policies.background import Clock
from tests.policies.test_realtime import Counting, drive


def expected(steps: int, horizon: int, every: int, m: float, drift: float) -> list[float]:
    """Chunk n, planned at step n * every, predicts T + drift * (n + 1) for step T."""
    out = []
    for step in range(steps):
        votes = [
            step + drift * (n + 1) for n in range(step // every + 1) if step - n * every < horizon
        ]  # oldest first
        weights = [math.exp(-m * i) for i in range(len(votes))]
        out.append(sum(w * v for w, v in zip(weights, votes)) / sum(weights))
    return out


@pytest.mark.parametrize("every", [1, 3, 12])
@pytest.mark.parametrize("m", [0.0, 0.01, 1.0, -1.0])
def test_an_action_is_the_weighted_mean_of_all_predictions_of_its_step(
    every: int, m: float
) -> None:
    policy = Counting(horizon=12, drift=0.5)
    controller = Controller(policy, execution=Ensembling(m=m, every=every))
    controller.reset(seed=0)
    out = drive(controller, 40, Clock())[:, 0]
    np.testing.assert_allclose(out, expected(40, 12, every, m, 0.5), rtol=1e-5)
    assert len(policy.windows) == math.ceil(40 / every)


def test_simulation_and_deployment_agree() -> None:
    acting, planning = (
        Controller(Counting(n_obs_steps=3, drift=0.5), execution=Ensembling(every=2))
        for _ in range(2)
    )
    acting.reset(seed=4)
    planning.begin(0, "count", 4)
    want = drive(acting, 20, Clock())
    frames = np.stack([np.arange(20), np.zeros(20)], axis=1).astype(np.float32)
    got = [
        planning.plan({0: frames[:1]})[0],
        *(planning.plan({0: frames[i - 1 : i + 1]})[0] for i in range(2, 20, 2)),
    ]
    np.testing.assert_array_equal(np.concatenate(got), want)


def test_a_plan_for_the_whole_chunk_is_the_plain_controller() -> None:
    controllers = (
        Controller(Counting(horizon=6, n_action_steps=6), execution=Ensembling(every=6)),
        Controller(Counting(horizon=6, n_action_steps=6)),
    )
    for controller in controllers:
        controller.reset(seed=2)
    np.testing.assert_array_equal(*(drive(controller, 20, Clock()) for controller in controllers))


def test_chunks_of_the_last_episode_have_no_vote() -> None:
    controller = Controller(Counting(), execution=Ensembling())
    controller.reset()
    drive(controller, 5, Clock())
    controller.reset()
    assert controller.act(np.array([100.0, 0]))[0] == 100.0


def test_a_prediction_that_is_not_finite_has_no_vote_and_the_guard_has_the_last_word() -> None:
    policy = Counting(box=5.0)
    controller = Controller(policy, execution=Ensembling())
    controller.reset()
    controller.act(np.array([1.0, 0]))
    policy.broken = True
    assert controller.act(np.array([7.0, 0]))[0] == 2.0  # the first chunk's prediction
    policy.broken = False
    assert controller.act(np.array([90.0, 0]))[0] == 5.0 and controller.refusals["box"] == 1


def test_a_server_that_holds_the_robot_is_obeyed_at_once_and_forgotten_when_it_goes_on() -> None:
    policy = Counting(drift=0.5)
    policy.held = False
    controller = Controller(policy, execution=Ensembling())
    controller.reset()
    drive(controller, 5, Clock())
    policy.held = True
    assert (
        controller.act(np.array([100.0, 0]))[0] == 100.0 + 0.5 * 6
    )  # what the server says, not a mean with older plans
    policy.held = False
    assert controller.act(np.array([7.0, 0]))[0] == 7.0 + 0.5 * 7


@pytest.mark.parametrize("options", [{"every": 0}, {"every": 13}, {"m": math.nan}])
def test_settings_that_make_no_sense_are_refused(options: dict) -> None:
    with pytest.raises(UserError, match="expected"):
        Controller(Counting(), execution=Ensembling(**options))


@pytest.mark.parametrize("m, counts", [(1000.0, 0), (-1000.0, -1)])
def test_weights_of_any_m_are_numbers(m: float, counts: int) -> None:
    """The oldest chunk, or the newest, alone."""
    policy = Counting(horizon=12, drift=0.5)
    controller = Controller(policy, execution=Ensembling(m=m))
    controller.reset(seed=0)
    out = drive(controller, 10, Clock())[:, 0]
    first = 0 if counts == 0 else 9
    assert out[9] == pytest.approx(9 + 0.5 * (first + 1))
