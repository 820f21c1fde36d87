"""The control loop with sensors that drop, repeat, delay and break observations, on a clock of the
test's own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from alltrades.data.actions import ActionSpec
from alltrades.data.fields import Field
from alltrades.data.interface import Interface
from alltrades.envs.robots import Outcome, Reading, Robot
from alltrades.errors import UserError
from alltrades.policies.control.controller import RobotController
from alltrades.robots.feed import Feed
from alltrades.robots.loop import ControlLoop
from tests.policies.background import Immediate, Working
from tests.policies.test_ticker import Clock


def frame(value: float, stamp: float | None = None) -> Any:
    observation = np.array([value, 0.0], dtype=np.float32)
    return observation if stamp is None else Reading(observation, stamp)


class Scripted(Robot):
    """Observes a list, one entry per tick; remembers what it was told."""

    def __init__(self, script: list[Any], outcomes: dict[int, Outcome] | None = None) -> None:
        self.limits = ActionSpec((-1.0,), (1.0,))
        self.control_hz = 10.0
        self.script, self.outcomes = list(script), outcomes or {}
        self.actions: list[float] = []
        self.seeds: list[int] = []

    def reset(self, seed: int) -> None:
        self.seeds.append(seed)

    def observe(self) -> Any:
        found = self.script.pop(0) if self.script else None
        return found() if callable(found) else found

    def act(self, action: np.ndarray) -> None:
        self.actions.append(round(float(action[0]), 4))

    def outcome(self) -> Outcome:
        return self.outcomes.get(len(self.actions), Outcome())

    def close(self) -> None: ...


class Proportional(RobotController):
    """A controller whose action is a tenth of the observation; remembers what it saw."""

    stopped = np.zeros(1, dtype=bool)
    held = False
    refusals: dict[str, int] = {}

    def __init__(self, work: Callable[[], None] = lambda: None) -> None:
        self.seen: list[float] = []
        self.begun: list[tuple[str | None, int | None]] = []
        self.work = work

    def reset(self, *, environment: str | None = None, seed: int | None = None) -> None:
        self.begun.append((environment, seed))

    def act(self, observation: dict[str, np.ndarray]) -> np.ndarray:
        state = observation["state"]
        self.seen.append(float(state[0]))
        self.work()
        return 0.1 * state[:1]


def of(limits: ActionSpec) -> Interface:
    return Interface("env", {"state": Field.state(2)}, limits, 50, 10.0)


def make(
    script: list[Any],
    timeout: float = 0.35,
    rate: Any = None,
    work: float = 0.0,
    stop: Any = None,
    acceleration: Any = None,
    **options: Any,
) -> tuple[ControlLoop, Scripted, Proportional, Clock]:
    """A loop at 10 Hz whose controller needs `work` seconds for an action, beside the robot's
    thread.
    """
    clock = Clock()
    robot, controller = Scripted(script, **options), Proportional()
    interface = of(ActionSpec([-1.0], [1.0], rate, acceleration, stop))
    loop = ControlLoop(
        robot, controller, interface, 10.0, timeout, Working(clock, work), clock, clock.sleep
    )
    return loop, robot, controller, clock


def test_dropped_repeated_and_late_observations_are_held_and_never_reach_the_history() -> None:
    script = [
        None,
        frame(1, 10),
        None,
        frame(1, 10),
        frame(2, 11),
        frame(9, 10.5),
        frame(np.nan, 12),
        frame(3, 13),
    ]
    loop, robot, controller, _ = make(script)
    assert loop.run(7, steps=3) == "steps"
    assert controller.seen == [1, 2, 3] and controller.begun == [("env", 7)] and robot.seeds == [7]
    assert robot.actions == [0.1, 0.1, 0.1, 0.2, 0.2, 0.2, 0.3]
    assert {k: loop.feed.counts[k] for k in ("new", "repeated", "late", "unreadable")} == {
        "new": 3,
        "repeated": 1,
        "late": 1,
        "unreadable": 1,
    }
    episode = loop.recorded("deploy/x")
    assert episode is not None and episode.observations["state"][:, 0].tolist() == [1, 2, 3]
    np.testing.assert_allclose(episode.actions, [[0.1], [0.2], [0.3]], atol=1e-6)


def test_without_stamps_the_same_unchanged_array_is_a_repetition_and_equal_values_are_not() -> None:
    feed, buffer = Feed(of(ActionSpec([-1.0], [1.0]))), np.ones(2, np.float32)
    assert feed.take(buffer) is not None and feed.take(buffer) is None
    assert feed.take(buffer.copy()) is not None  # a robot at rest
    buffer[0] = 5.0  # a driver that fills the same buffer again
    kept = feed.take(buffer)
    buffer[0] = 6.0
    assert kept is not None and kept["state"][0] == 5.0 and feed.take(buffer) is not None
    assert feed.counts == {"new": 4, "repeated": 1}


def test_stamps_may_start_anew_with_an_episode() -> None:
    feed = Feed(of(ActionSpec([-1.0], [1.0])))
    assert feed.take(frame(1, 5)) is not None and feed.take(frame(1, 4)) is None
    feed.reset()
    assert feed.take(frame(1, 0)) is not None


def test_an_observation_that_is_no_array_is_a_user_error() -> None:
    with pytest.raises(UserError, match="expected numbers"):
        Feed(of(ActionSpec([-1.0], [1.0]))).take("nothing")  # type: ignore[arg-type]


def test_a_robot_that_falls_silent_holds_until_the_timeout_and_is_then_stopped() -> None:
    loop, robot, _, clock = make([frame(5, 1)], timeout=0.35, stop=(0.0,))
    assert loop.run(0) == "timeout"
    # 0.5 once, held at 0.1, 0.2 and 0.3 s, at 0.4 s the time is up
    assert robot.actions == [0.5, 0.5, 0.5, 0.5, 0.0] and loop.held == 3
    assert clock.now - 100 == pytest.approx(0.4)


def test_a_robot_that_never_speaks_is_never_told_anything() -> None:
    loop, robot, _, _ = make([], stop=(0.0,))
    assert loop.run(0) == "timeout" and robot.actions == [] and loop.recorded("x") is None


def test_every_action_is_guarded_and_the_way_to_rest_is_too() -> None:
    loop, robot, _, _ = make(
        [frame(50, 1), frame(50, 2), frame(4, 3), frame(0, 4)], rate=[0.25], stop=(0.0,)
    )
    assert loop.run(0, steps=3) == "steps"
    assert robot.actions == [0.25, 0.5, 0.4, 0.15, 0.0]
    assert loop.refusals == {"finite": 0, "box": 2, "rate": 2, "acceleration": 0, "late": 0}


def test_refusals_of_the_controllers_own_guard_count_from_the_start_of_the_loop_on() -> None:
    controller = Proportional()
    controller.refusals = {"box": 5, "hold": 1}
    robot = Scripted([frame(50, 1), frame(0, 2)])
    clock = Clock()
    loop = ControlLoop(
        robot,
        controller,
        of(ActionSpec([-1.0], [1.0])),
        10.0,
        1.0,
        Immediate(),
        clock,
        clock.sleep,
    )
    controller.refusals = {"box": 7, "hold": 1, "stop": 1}
    loop.run(0, steps=1)
    assert {k: v for k, v in loop.refusals.items() if v} == {"box": 3, "stop": 1}


def test_an_episode_ends_when_the_robot_says_so_and_keeps_what_each_action_led_to() -> None:
    outcomes = {1: Outcome(0.5), 2: Outcome(2.0, success=True), 3: Outcome(-1.0, done=True)}
    loop, robot, _, _ = make([frame(i, i) for i in range(9)], outcomes=outcomes)
    assert loop.run(3) == "success" and len(robot.actions) == 3
    episode = loop.recorded("deploy/x")
    assert episode is not None and episode.rewards.tolist() == [0.5, 2.0, -1.0]
    assert (
        episode.successes.tolist() == [False, True, False]
        and episode.first_success == 2
        and episode.success
    )
    assert (episode.environment, episode.source, episode.seed, episode.return_) == (
        "env",
        "deploy/x",
        3,
        1.5,
    )
    over, *_ = make([frame(i, i) for i in range(9)], outcomes={2: Outcome(done=True)})
    assert over.run(3) == "over" and over.steps == 2


def test_a_slow_policy_misses_deadlines_and_its_latency_is_told() -> None:
    loop, robot, _, clock = make([frame(i, i) for i in range(9)], work=0.25)
    assert loop.run(0, steps=4) == "steps"
    assert loop.ticker.missed == 8 and list(loop.latencies) == pytest.approx([0.25] * 4)
    assert clock.now - 100 == pytest.approx(1.0)
    # the last action is held at every control step that goes by meanwhile; before the first one
    # there is none
    assert robot.actions == [0.0, 0.0, 0.0, 0.1, 0.1, 0.1, 0.2, 0.2, 0.2, 0.3] and loop.held == 6


def test_a_controller_that_stopped_for_want_of_actions_ends_the_episode() -> None:
    loop, robot, controller, _ = make([frame(i, i) for i in range(9)], stop=(0.0,))
    controller.work = lambda: setattr(controller, "stopped", np.array([len(controller.seen) == 3]))
    assert loop.run(0) == "starved" and robot.actions == [
        0.0,
        0.1,
        0.0,
    ]  # its third is no action of the policy


def test_dimensions_without_a_stop_action_keep_their_last_value() -> None:
    robot, clock = Scripted([frame(5, 1)]), Clock()
    robot.act = lambda action: robot.actions.append(action.tolist())  # type: ignore[method-assign]
    controller = Proportional()
    controller.act = lambda observation: np.array([[0.5, 0.25]])  # type: ignore[method-assign]
    loop = ControlLoop(
        robot,
        controller,
        of(ActionSpec([-1.0, -1.0], [1.0, 1.0], stop=(0.0, None))),
        10.0,
        1.0,
        Immediate(),
        clock,
        clock.sleep,
    )
    loop.run(0, steps=1)
    assert robot.actions == [[0.5, 0.25], [0.0, 0.25]]


def test_asked_to_stop_it_stops_the_robot_and_keeps_the_episode() -> None:
    loop, robot, _, _ = make([frame(i, i) for i in range(9)], stop=(0.0,))
    assert loop.run(0, stop=lambda: len(robot.actions) == 4) == "stopped"
    assert robot.actions == [0.0, 0.1, 0.2, 0.3, 0.0]
    episode = loop.recorded("x")
    assert episode is not None and len(episode) == 4


@pytest.mark.parametrize("broken", ["robot", "controller"])
def test_whatever_fails_the_robot_is_stopped_first_and_the_episode_kept(broken: str) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    loop, robot, controller, _ = make(
        [frame(4, 0), frame(4, 1), fail if broken == "robot" else frame(4, 2)], stop=(0.0,)
    )
    if broken == "controller":
        controller.work = lambda: None if len(controller.seen) < 3 else fail()
    with pytest.raises(ZeroDivisionError):
        loop.run(0)
    assert robot.actions == [0.4, 0.4, 0.0]
    episode = loop.recorded("x")
    assert episode is not None and len(episode) == 2


# ---- a policy that is slow or hangs --------------------------------------------------------------
def test_a_policy_that_takes_too_long_has_its_robot_held_then_stopped() -> None:
    loop, robot, controller, clock = make(
        [frame(8, 0), frame(9, 1), frame(9, 2)], rate=[0.4], stop=(0.0,)
    )
    slow = [0.0, 0.0, 5.0]
    loop._executor.submit = lambda act, seen: Working(clock, slow.pop(0)).submit(act, seen)  # type: ignore[method-assign]
    assert loop.run(0) == "starved"
    # asked for the third time at 0.2 s; held at 0.3 and 0.4 s, and at 0.5 s, 0.4 s after the last
    # fresh action, time is up
    assert robot.actions == [0.4, 0.8, 0.8, 0.8, 0.4, 0.0] and loop.held == 2
    assert loop.refusals["late"] == 1 and loop.steps == 2
    assert clock.now - 100 == pytest.approx(0.6)
    with pytest.raises(UserError, match="still works"):
        loop.run(1)
    assert robot.actions[-1] == 0.0 and len(robot.seeds) == 1


def test_an_action_that_came_at_all_but_too_late_is_not_executed() -> None:
    loop, robot, _, clock = make([frame(3, 0), frame(9, 1)], stop=(0.0,))
    loop._executor.submit = lambda act, seen: Working(
        clock, 0.25 if seen["state"][0] == 9 else 0
    ).submit(act, seen)  # type: ignore[method-assign]
    loop.timeout = (
        0.33  # between two control steps: it is there at the next look, 0.35 s after the last one
    )
    assert (
        loop.run(0) == "starved"
        and robot.actions == [0.3, 0.3, 0.3, 0.0]
        and loop.refusals["late"] == 1
    )


def test_a_policy_that_never_returns_keeps_neither_the_robot_nor_the_thread_that_drives_it() -> (
    None
):
    """With real threads and clocks: the robot is stopped while `act` is still blocked, by the
    thread that called `run`.
    """
    release, threads = threading.Event(), set()
    robot, controller = Scripted([frame(5, i) for i in range(1000)]), Proportional()
    act = robot.act

    def talk(action: np.ndarray) -> None:
        threads.add(threading.current_thread())
        act(action)

    def work() -> None:
        threads.discard(threading.current_thread())
        if len(controller.seen) == 3:
            release.wait(60)

    robot.act, controller.work = talk, work  # type: ignore[method-assign]
    loop = ControlLoop(
        robot, controller, of(ActionSpec([-1.0], [1.0], [0.2], stop=(0.0,))), 50.0, 1.5
    )
    assert loop.run(0) == "starved" and not release.is_set()
    assert (
        robot.actions[0] == 0.2
        and robot.actions[-3:] == [0.4, 0.2, 0.0]
        and loop.refusals["late"] == 1
    )
    assert threads == {threading.current_thread()}
    sent = len(robot.actions)
    release.set()
    assert loop._call is not None and loop._call.result(60) is not None
    assert len(robot.actions) == sent  # what came at last is not executed
    loop.close()


def test_asked_to_stop_it_does_not_wait_for_the_policy() -> None:
    loop, robot, _, clock = make([frame(3, 0), frame(9, 1)], timeout=60.0, stop=(0.0,))
    loop._executor.submit = lambda act, seen: Working(
        clock, 50 if seen["state"][0] == 9 else 0
    ).submit(act, seen)  # type: ignore[method-assign]
    assert loop.run(0, stop=lambda: clock.now > 100.45) == "stopped"
    assert robot.actions == [0.3, 0.3, 0.3, 0.3, 0.0]


def test_a_robot_that_waits_waits_for_a_slow_policy() -> None:
    _, robot, controller, clock = make([frame(i, i) for i in range(3)])
    robot.waits = True
    loop = ControlLoop(
        robot,
        controller,
        of(ActionSpec([-1.0], [1.0])),
        None,
        0.5,
        Working(clock, 30.0),
        clock,
        clock.sleep,
    )
    assert (
        loop.run(0, steps=2) == "steps"
        and robot.actions == [0.0, 0.1]
        and loop.refusals["late"] == 0
    )


def test_what_the_policy_raises_is_raised_also_when_that_is_a_timeout() -> None:
    loop, robot, controller, _ = make([frame(3, 0), frame(3, 1)], stop=(0.0,))

    def fail() -> None:
        if len(controller.seen) == 2:
            raise TimeoutError("of its own")

    controller.work = fail
    with pytest.raises(TimeoutError, match="of its own"):
        loop.run(0)
    assert robot.actions == [0.3, 0.0]


def test_an_observation_that_comes_after_the_timeout_is_not_answered() -> None:
    """The driver's call took too long, or the process was suspended."""
    loop, robot, controller, clock = make([], stop=(0.0,))

    def late() -> Any:
        clock.now += 0.5
        return frame(9, 1)

    robot.script = [frame(3, 0), late]
    assert loop.run(0) == "timeout" and controller.seen == [3] and robot.actions == [0.3, 0.0]


def test_a_timeout_shorter_than_two_control_steps_is_refused() -> None:
    with pytest.raises(UserError, match="expected two control steps"):
        make([], timeout=0.15)


def test_while_the_operator_holds_the_robot_it_goes_to_rest_and_then_on_again_unrecorded() -> None:
    loop, robot, controller, _ = make([frame(6, i) for i in range(9)], rate=[0.4], stop=(0.0,))
    controller.work = lambda: setattr(controller, "held", 3 <= len(controller.seen) <= 6)
    assert loop.run(0, steps=4) == "steps"
    assert robot.actions == [0.4, 0.6, 0.2, 0.0, 0.0, 0.0, 0.4, 0.6, 0.2, 0.0]
    assert (
        loop.paused == 4 and loop.steps == 4 == len(loop.latencies) and loop.refusals["late"] == 0
    )


# ---- episodes ------------------------------------------------------------------------------------
def test_a_new_episode_forgets_the_last_one() -> None:
    loop, robot, controller, _ = make(
        [frame(9, 5), frame(9, 6), frame(1, 0), frame(1, 1)], rate=[0.5]
    )  # no stop action
    assert loop.run(1, steps=1) == "steps" and loop.run(2, steps=1) == "steps"
    assert robot.actions == [0.9, 0.1]  # a start has no action before it: no rate limit
    episode = loop.recorded("x")
    assert (
        episode is not None and len(episode) == 1 and episode.seed == 2 and len(loop.latencies) == 2
    )


def test_a_reward_that_is_not_finite_is_a_user_error() -> None:
    loop, *_ = make([frame(i, i) for i in range(9)], outcomes={1: Outcome(float("nan"))})
    with pytest.raises(UserError, match="reward nan"):
        loop.run(0)
    assert loop.recorded("x") is not None


@pytest.mark.parametrize("refuses", [False, True])
def test_what_a_robot_is_told_is_heard_before_time_counts_and_it_moves(refuses: bool) -> None:
    clock, heard = Clock(), []
    frames = [{"state": np.float32([k, 0]), "said": "turn left"} for k in range(1, 6)]
    robot, controller = Scripted(frames), Proportional()
    fields = {"state": Field.state(2), "said": Field.text()}
    interface = Interface("env", fields, ActionSpec([-1.0], [1.0]), 50, 10.0)

    def hear(text: str) -> None:
        heard.append(text)
        clock.sleep(5.0)  # far beyond the timeout
        if refuses:
            raise UserError("it asks for nothing")

    loop = ControlLoop(
        robot, controller, interface, 10.0, 0.35, Working(clock, 0), clock, clock.sleep, hear=hear
    )
    if refuses:
        with pytest.raises(UserError, match="asks for nothing"):
            loop.run(0, steps=3)
        assert not robot.actions and not controller.seen
        return
    assert loop.run(0, steps=3) == "steps"
    assert heard == ["turn left"] and loop.held == 0 and len(robot.actions) == 3
    assert controller.seen == [2, 3, 4]  # the first was old when it had been heard
    assert max(loop.latencies) < 0.1
