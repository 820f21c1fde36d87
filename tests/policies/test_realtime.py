"""The asynchronous controller against a policy whose every output can be computed by hand; no test
depends on wall time.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from alltrades.data.actions import ActionSpec
from alltrades.data.fields import Field
from alltrades.data.interface import Interface
from alltrades.errors import UserError
from alltrades.policies.acting import ActingPolicy
from alltrades.policies.control.controller import Controller
from alltrades.policies.control.realtime import RealTimeController, overlap_weights
from tests.policies.background import Clock, Immediate, Later

HZ = 10.0


class Counting(ActingPolicy):
    """Its observation is the number of the control step (and the lane): action i of a chunk is that
    plus i, noise beside it.

    Where it is told to keep actions, it does. So an action names the step that it is meant for.
    """

    def __init__(
        self,
        n_obs_steps: int = 1,
        horizon: int = 12,
        n_action_steps: int = 6,
        drift: float = 0.0,
        box: float = 1e6,
        stop: tuple[float | None, ...] | None = None,
        lean: bool = False,
    ) -> None:
        self.n_obs_steps, self.horizon = n_obs_steps, horizon
        self.n_action_steps, self.draws = n_action_steps, 1
        self.drift, self.lean = (
            drift,
            lean,
        )  # drift: chunks disagree; lean: what it is told is ignored
        self.environments = (
            Interface(
                "count",
                {"state": Field.state(2)},
                ActionSpec((-box, -box), (box, box), stop=stop),
                50,
                HZ,
            ),
        )
        self.windows: list[np.ndarray] = []
        self.told: list[tuple[np.ndarray, np.ndarray] | None] = []
        self.failure: Exception | None = None
        self.broken = False  # its chunks are not finite

    def act(
        self,
        window: Mapping[str, np.ndarray],
        environment: np.ndarray,
        noise: np.ndarray,
        known: np.ndarray | None = None,
        keep: np.ndarray | None = None,
    ) -> np.ndarray:
        state = window["state"]
        if self.failure is not None:
            raise self.failure
        self.windows.append(state.copy())
        self.told.append(None if known is None or keep is None else (known.copy(), keep.copy()))
        chunk = np.zeros((len(state), self.horizon, 2), np.float32)
        chunk[:, :, 0] = state[:, -1, :1] + np.arange(self.horizon) + self.drift * len(self.windows)
        chunk[:, :, 1] = noise[:, 0, :, 0]
        if known is not None and keep is not None and not self.lean:
            chunk += keep[:, :, None] * (known - chunk)
        return np.full_like(chunk, np.nan) if self.broken else chunk


def drive(
    controller: Any,
    steps: int,
    clock: Clock,
    executor: Later | None = None,
    delay: int = 0,
    start: int = 0,
    lane: int = 0,
) -> np.ndarray:
    """(steps, A) actions when a chunk needs `delay` control steps."""
    out, due = [], {}
    for step in range(start, start + steps):
        if executor is not None and due.get(step):
            executor.deliver(due.pop(step))
        before = 0 if executor is None else len(executor.pending)
        frame = np.tile(np.array([step, 0.0], np.float32), (controller.lanes, 1))
        out.append(controller.act(frame)[lane])
        if executor is not None and len(executor.pending) > before:
            due[step + delay] = len(executor.pending) - before
        clock.now += 1 / HZ
    return np.array(out)


def make(
    policy: Counting, delay: int = 0, **options: Any
) -> tuple[RealTimeController, Clock, Later]:
    clock = Clock()
    executor = Later(clock)
    # every `n_action_steps` steps, with a pull over all that is left of the last chunk, unless a
    # test wants it otherwise
    usual: dict[str, Any] = {"delay": delay / HZ, "every": policy.n_action_steps, "overlap": None}
    controller = RealTimeController(policy, clock=clock, executor=executor, **(usual | options))
    controller.reset(seed=0)
    return controller, clock, executor


# ---- what is executed ----------------------------------------------------------------------------
def test_without_delay_and_overlap_it_is_the_synchronous_controller_bit_for_bit() -> None:
    clock = Clock()
    asynchronous = RealTimeController(
        Counting(n_obs_steps=3), lanes=2, overlap=0, delay=0.0, executor=Immediate(), clock=clock
    )
    synchronous = Controller(Counting(n_obs_steps=3), lanes=2)
    for controller in (asynchronous, synchronous):
        controller.reset(seed=7)
    want = drive(synchronous, 40, Clock())
    np.testing.assert_array_equal(drive(asynchronous, 40, clock), want)
    assert len(np.unique(want[:, 1])) > 30  # noise is part of it
    assert len(asynchronous.policy.windows) == len(synchronous.policy.windows) == 7
    np.testing.assert_array_equal(asynchronous.policy.windows, synchronous.policy.windows)


@pytest.mark.parametrize("delay", [1, 2, 5, 6])
def test_every_action_is_the_one_meant_for_its_step_whatever_the_delay(delay: int) -> None:
    policy = Counting()
    controller, clock, executor = make(policy, delay)
    np.testing.assert_array_equal(
        drive(controller, 60, clock, executor, delay)[:, 0], np.arange(60)
    )
    assert controller.statistics()["late"] == controller.statistics()["held"] == 0
    # asked for every `n_action_steps` steps, or as early as a delay beyond the half of the chunk
    # demands
    steps = [int(w[0, -1, 0]) for w in policy.windows]
    assert steps == list(range(0, 60, 6))


@pytest.mark.parametrize("delay", [1, 2, 3])
def test_by_default_no_action_is_older_than_a_synchronous_robots_and_the_last_chunk_does_not_pull(
    delay: int,
) -> None:
    policy = Counting()
    controller, clock, executor = make(policy, delay, every=None, overlap=0)
    np.testing.assert_array_equal(
        drive(controller, 60, clock, executor, delay)[:, 0], np.arange(60)
    )
    asked = [int(w[0, -1, 0]) for w in policy.windows]
    assert set(np.diff(asked[1:])) == {max(policy.n_action_steps - delay, delay, 1)}
    ages = [step - max(a for a in asked if a == 0 or a + delay <= step) for step in range(20, 60)]
    assert max(ages) == policy.n_action_steps - 1
    assert all(told is None or np.count_nonzero(told[1]) == delay for told in policy.told)


def test_a_delay_that_was_guessed_wrong_does_not_shift_actions() -> None:
    """The splice counts executed actions; only the freeze depends on the guess."""
    delays = np.random.default_rng(0).integers(0, 6, 200)
    policy = Counting()
    controller, clock, executor = make(policy, 1)
    out, due = [], []
    for step in range(300):
        while due and due[0] <= step:
            due.pop(0)
            executor.deliver(1)
        before = len(executor.pending)
        out.append(controller.act(np.array([step, 0.0]))[0])
        due += [step + int(delays[len(policy.windows)])] * (len(executor.pending) - before)
        clock.now += 1 / HZ
    np.testing.assert_array_equal(out, np.arange(300))
    assert controller.statistics()["chunks"] > 40


def test_frozen_actions_are_those_that_are_executed_while_the_chunk_is_on_its_way() -> None:
    delay, policy = 3, Counting(drift=0.25)
    controller, clock, executor = make(policy, delay)
    out = drive(controller, 40, clock, executor, delay)[:, 0]
    for window, told in list(zip(policy.windows, policy.told))[1:-1]:
        assert told is not None
        known, keep = told
        step = int(window[0, -1, 0])
        np.testing.assert_array_equal(known[0, :delay, 0], out[step : step + delay])
        c = (np.array([6 - i for i in range(3, 6)])) / (
            6 - 3 + 1
        )  # six actions are left of a chunk of twelve
        want = [1, 1, 1, *(c * (np.exp(c) - 1) / (math.e - 1)), *[0] * 6]
        np.testing.assert_allclose(keep[0], want, rtol=1e-6)
    # a chunk takes over without a jump: where it was told, it continues; the drift comes in by the
    # decaying weights
    assert np.abs(np.diff(out) - 1).max() < 0.25 and np.diff(out).max() > 1


@pytest.mark.parametrize(
    ("every", "delay", "steps"),
    [(3, 2, [0, 3, 6, 9, 12]), (1, 2, [0, 1, 3, 5, 7, 9, 11, 13]), (20, 8, [0, 4, 12])],
)
def test_chunks_are_asked_for_as_often_as_wanted_one_at_a_time(
    every: int, delay: int, steps: list[int]
) -> None:
    """A delay of 8 steps out of a chunk of 12 leaves 4 until the next one has to be asked for."""
    policy = Counting()
    controller, clock, executor = make(policy, delay, every=every)
    np.testing.assert_array_equal(
        drive(controller, 14, clock, executor, delay)[:, 0], np.arange(14)
    )
    assert [int(w[0, -1, 0]) for w in policy.windows] == steps


def test_overlap_bounds_how_long_the_last_chunk_pulls() -> None:
    for overlap, positive in ((0, 2), (2, 4), (None, 6), (50, 6)):
        policy = Counting()
        controller, clock, executor = make(policy, 2, overlap=overlap)
        drive(controller, 20, clock, executor, 2)
        assert policy.told[1] is not None and int((policy.told[1][1][0] > 0).sum()) == positive


def test_overlap_weights_are_one_then_fall_then_zero() -> None:
    weights = overlap_weights(2, 7, 10)
    assert (
        (weights[:2] == 1).all() and (weights[7:] == 0).all() and (np.diff(weights[1:8]) < 0).all()
    )
    assert weights[2] == pytest.approx((5 / 6) * (math.exp(5 / 6) - 1) / (math.e - 1))
    assert overlap_weights(0, 0, 3).tolist() == [0, 0, 0] and overlap_weights(3, 3, 3).tolist() == [
        1,
        1,
        1,
    ]


def test_what_the_guard_will_make_of_planned_actions_is_what_is_frozen() -> None:
    policy = Counting(box=8.0)
    controller, clock, executor = make(policy, 2)
    out = drive(controller, 14, clock, executor, 2)[:, 0]
    assert out.max() == 8.0 and policy.told[2] is not None
    assert policy.told[2][0][0, :2, 0].tolist() == [8.0, 8.0]  # for the steps 12 and 13
    assert (
        controller.refusals["box"] == 5
    )  # those that were executed, not those that were looked at


# ---- history -------------------------------------------------------------------------------------
def test_the_history_is_the_real_past_also_between_requests() -> None:
    policy = Counting(n_obs_steps=3)
    controller, clock, executor = make(policy, 2)
    drive(controller, 20, clock, executor, 2)
    np.testing.assert_array_equal(
        [w[0, :, 0] for w in policy.windows], [[0, 0, 0], [4, 5, 6], [10, 11, 12], [16, 17, 18]]
    )


# ---- reset ---------------------------------------------------------------------------------------
def test_a_chunk_in_flight_is_never_executed_after_a_reset() -> None:
    policy = Counting()
    controller, clock, executor = make(policy, 3)
    drive(controller, 8, clock, executor, 3)  # asked at step 6, not delivered
    assert len(executor.pending) == 1
    controller.reset(seed=1)
    out = [
        controller.act(np.array([1000.0 + i, 0.0]))[0] for i in range(6)
    ]  # the wait delivers the old one too
    assert out == [1000.0 + i for i in range(6)]
    assert (
        controller.statistics()["dropped"] == 1 and policy.told[-1] is None
    )  # nothing is frozen at a start


def test_a_reset_of_one_lane_leaves_the_chunk_of_the_others_alone() -> None:
    policy = Counting()
    controller, clock, executor = make(policy, 3, lanes=2)
    drive(controller, 8, clock, executor, 3)
    controller.reset([False, True])
    out = controller.act(np.array([[8.0, 0], [500, 0]]))
    assert out[:, 0].tolist() == [8.0, 500.0]
    out = [controller.act(np.array([[9.0 + i, 0], [501 + i, 0]]))[:, 0] for i in range(5)]
    np.testing.assert_array_equal(out, [[9 + i, 501 + i] for i in range(5)])


def test_a_call_of_many_lanes_is_cut_into_batches() -> None:
    policy = Counting()
    controller, clock, executor = make(policy, 1, lanes=5, batch=2)
    out = np.stack([drive(controller, 1, clock, executor, 0, start=s) for s in range(3)])
    assert [len(w) for w in policy.windows] == [2, 2, 2] and (out[:, 0, 0] == [0, 1, 2]).all()


# ---- delay ---------------------------------------------------------------------------------------
def test_the_delay_is_measured_without_the_first_calls_and_an_upper_quantile_counts() -> None:
    policy = Counting(horizon=20, n_action_steps=4)
    clock = Clock()
    controller = RealTimeController(policy, clock=clock, executor=(executor := Later(clock)))
    controller.reset()
    assert controller.delay(0) == 16  # nothing is known: what a chunk has beyond the executed steps
    controller.act(np.zeros(2))
    durations = [9.0] + [0.11] * 30 + [0.31, 0.75] + [0.05] * 10
    for seconds in durations:  # the first of them is the second call
        while not executor.pending:
            controller.act(np.zeros(2))
        clock.now += seconds
        executor.deliver()
        if seconds in (9.0, 0.11):
            assert controller.delay(0) == (16 if seconds == 9.0 else 2)
    assert controller.statistics()["delay_ms"]["max"] == pytest.approx(750)
    assert controller.delay(0) == 4  # 310 ms; a single slow call is left out


def test_a_delay_is_counted_in_control_steps_of_the_robots_own_rate() -> None:
    for rate, steps in ((None, 2), (50.0, 10), (5.0, 1)):  # 0.2 s; the environment has 10 Hz
        controller, *_ = make(Counting(), 2, rate=rate)
        assert controller.delay(0) == steps


def test_at_a_higher_rate_no_action_is_taken_back_while_the_next_chunk_is_on_its_way() -> None:
    """A chunk takes 0.1 s, five control steps of 50 Hz: all of them are frozen, and none is
    late.
    """
    policy = Counting(horizon=16, n_action_steps=8, drift=0.25)
    controller, clock, executor = make(policy, 1, rate=50.0)
    drive(controller, 60, clock, executor, 5)
    frozen = [int((told[1][0] == 1).sum()) for told in policy.told if told is not None]
    assert frozen[0] == 5 and controller.statistics()["late"] == 0


# ---- an operator ---------------------------------------------------------------------------------
def test_held_by_the_operator_a_lane_rests_and_goes_on_from_there() -> None:
    policy = Counting(stop=(0.0, None))
    policy.held = False
    controller, clock, executor = make(policy, 1, stop_after=0.5)
    before = drive(controller, 5, clock, executor, 1)
    policy.held = True
    out = drive(controller, 20, clock, executor, 1, start=5)
    assert (out == [0.0, before[-1, 1]]).all() and not controller.stopped.any()
    told = policy.told[-1]
    assert told is not None and told[0][0, 0].tolist() == out[-1].tolist()  # frozen is what it does
    policy.held = False
    assert drive(controller, 1, clock, start=25)[0, 0] == 0.0  # no chunk yet
    executor.deliver()
    after = drive(controller, 9, clock, executor, 1, start=26)[:, 0]
    assert after[-1] == 34.0 and not controller.stopped.any() and controller.refusals["stop"] == 0


def test_what_is_frozen_follows_the_measured_delay() -> None:
    policy = Counting(horizon=12, n_action_steps=4)
    controller, clock, executor = make(policy, 0)
    drive(controller, 40, clock, executor, 4)
    frozen = [int((told[1][0] == 1).sum()) for told in policy.told if told is not None]
    assert frozen[0] == 0 and frozen[-1] == 4
    assert controller.statistics()["late"] == frozen.count(
        0
    )  # chunks for which too little was frozen


def test_a_chunk_that_comes_when_all_its_actions_have_passed_is_asked_for_again() -> None:
    policy = Counting(horizon=6, n_action_steps=3)
    controller, clock, executor = make(policy, 1, stop_after=1e9)
    drive(controller, 30, clock)  # nothing but the first is delivered
    assert controller.refusals["hold"] == 24
    executor.deliver()
    assert controller.act(np.array([30.0, 0]))[0] == 5.0  # still held, and asked again
    executor.deliver()
    assert controller.act(np.array([31.0, 0]))[0] == 31.0


# ---- no action -----------------------------------------------------------------------------------
def test_without_a_chunk_the_last_action_is_held_then_the_robot_stops_and_stays_stopped() -> None:
    policy = Counting(stop=(0.0, None))
    controller, clock, executor = make(policy, 2, stop_after=1.05)
    out = drive(controller, 40, clock)
    np.testing.assert_array_equal(out[:12, 0], np.arange(12))
    held = out[12:22]  # the last fresh action was executed 0.1 to 1.0 s ago
    assert (held == out[11]).all()
    assert (
        out[22:] == [0.0, out[11, 1]]
    ).all()  # the stop action, which leaves the second dimension as it is
    assert controller.stopped.tolist() == [True]
    assert controller.refusals["hold"] == 10 and controller.refusals["stop"] == 18
    executor.deliver()
    assert controller.act(np.array([40.0, 0]))[0] == 0.0  # whatever comes
    controller.reset()
    assert controller.stopped.tolist() == [False] and controller.act(np.array([0.0, 0]))[0] == 0.0


def test_an_environment_without_a_stop_action_goes_on_holding_and_says_that_it_stopped() -> None:
    controller, clock, _ = make(Counting(), 2, stop_after=0.5)
    out = drive(controller, 30, clock)
    assert (out[12:] == out[11]).all() and controller.stopped.all()


def test_refusals_are_counted_for_each_robot() -> None:
    policy = Counting(box=5.0)
    controller, clock, executor = make(policy, 0, lanes=2)
    controller.act({0: np.array([9.0, 0])})
    controller.act({1: np.array([0.0, 0])})
    assert (
        controller.refusals_of(0)["box"] == 1
        and controller.refusals_of(1)["box"] == 0 == controller.refusals["rate"]
    )
    assert controller.refusals["box"] == 1


# ---- failures ------------------------------------------------------------------------------------
def test_a_policy_that_fails_is_asked_again_and_its_reason_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    policy = Counting()
    controller, clock, executor = make(policy, 1, stop_after=1e9)
    drive(controller, 5, clock, executor, 1)
    policy.failure = UserError("the cable is out")
    out = drive(controller, 15, clock, executor, 1, start=5)
    np.testing.assert_array_equal(out[:, 0], [*range(5, 12), *[11] * 8])
    assert controller.statistics()["failures"] >= 5 and caplog.text.count("the cable is out") == 1
    policy.failure = None
    executor.deliver()
    out = drive(controller, 10, clock, executor, 1, start=20)
    np.testing.assert_array_equal(out[2:, 0], np.arange(22, 30))


def test_a_failure_at_an_episodes_start_is_raised_and_the_next_step_tries_again() -> None:
    policy = Counting()
    controller, _, _ = make(policy, 1)
    policy.failure = UserError("no server")
    with pytest.raises(UserError, match="no server"):
        controller.act(np.zeros(2))
    policy.failure = None
    assert controller.act(np.array([3.0, 0]))[0] == 3.0


def test_observations_that_do_not_fit_leave_no_trace() -> None:
    policy = Counting()
    controller, _, _ = make(policy, 1)
    with pytest.raises(UserError, match="shape"):
        controller.act(np.zeros(3))
    assert not policy.windows


@pytest.mark.parametrize(
    "options", [{"stop_after": 0.0}, {"overlap": -1}, {"lanes": 0}, {"every": 0}, {"rate": 0.0}]
)
def test_settings_that_make_no_sense_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match="expected"):
        make(Counting(), **options)


# ---- threads -------------------------------------------------------------------------------------
def test_in_a_real_thread_acting_goes_on_while_the_policy_works() -> None:
    gate, called = threading.Event(), threading.Event()

    class Slow(Counting):
        def act(self, *inputs: Any) -> np.ndarray:
            if len(self.windows) == 1:  # the second call works until the test has acted on
                called.set()
                assert gate.wait(30)
            return super().act(*inputs)

    with RealTimeController(Slow()) as controller:
        controller.reset()
        out = [
            controller.act(np.array([s, 0.0]))[0] for s in range(7)
        ]  # the second is asked for at step 6
        assert called.wait(30)
        out += [controller.act(np.array([s, 0.0]))[0] for s in (7, 8)]
        flight = controller._flights[0]
        assert flight is not None and flight.future is not None
        gate.set()
        flight.future.result(30)
        while flight.end is None:  # the thread's last word
            pass
        out += [controller.act(np.array([s, 0.0]))[0] for s in range(9, 12)]
        assert out == list(range(12)) and controller.statistics()["chunks"] == 2
