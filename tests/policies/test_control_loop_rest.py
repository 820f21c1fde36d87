"""How the control loop brings a robot to rest: within its limits, whatever its driver, its policy
or a person do.
"""

from __future__ import annotations

import numpy as np
import pytest

from alltrades.errors import UserError
from alltrades.robots.loop import ATTEMPTS

from .test_control_loop import frame, make


def test_the_way_to_rest_never_jumps_however_long_the_limits_make_it() -> None:
    loop, robot, _, clock = make([frame(50, i) for i in range(64)], rate=[1 / 64], stop=(0.0,))
    assert loop.run(0, steps=64) == "steps"
    assert len(robot.actions) == 128 and robot.actions[63] == 1.0 and robot.actions[-1] == 0.0
    assert np.abs(np.diff(robot.actions)).max() <= 0.0158  # the robot's log is rounded
    assert clock.now - 100 == pytest.approx(12.7)  # one step per period


def test_the_first_action_starts_from_rest_within_the_limits() -> None:
    loop, robot, _, _ = make(
        [frame(9, i) for i in range(4)], rate=[0.5], acceleration=[0.2], stop=(0.0,)
    )
    loop.run(0, steps=3)
    assert robot.actions[:3] == [0.2, 0.6, 0.9]


def test_interrupts_on_the_way_to_rest_are_raised_when_the_robot_rests() -> None:
    loop, robot, _, _ = make([frame(8, i) for i in range(9)], rate=[0.2], stop=(0.0,))
    act = robot.act

    def interrupted(action: np.ndarray) -> None:
        assert loop.halting == (len(robot.actions) >= 4)
        act(action)
        if len(robot.actions) in (5, 6):
            raise KeyboardInterrupt

    robot.act = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        loop.run(0, steps=4)
    assert (
        robot.actions[:4] == [0.2, 0.4, 0.6, 0.8] and robot.actions[-1] == 0.0 and not loop.halting
    )
    assert np.abs(np.diff(robot.actions)).max() <= 0.2001


def test_a_driver_that_fails_now_and_then_is_asked_to_stop_again() -> None:
    loop, robot, _, _ = make([frame(8, i) for i in range(9)], rate=[0.4], stop=(0.0,))
    act, calls = robot.act, []

    def flaky(action: np.ndarray) -> None:
        calls.append(action)
        if len(calls) in (3, 4, 5, 7):
            raise OSError("bus")
        act(action)

    robot.act = flaky  # type: ignore[method-assign]
    with pytest.raises(OSError, match="bus"):
        loop.run(0)
    assert robot.actions == [0.4, 0.8, 0.4, 0.0]


def test_a_driver_that_fails_at_the_first_action_is_stopped_too() -> None:
    """It may have moved all the same."""
    loop, robot, _, _ = make([frame(8, 0)], stop=(0.0,))
    act, calls = robot.act, []

    def broken_once(action: np.ndarray) -> None:
        calls.append(action)
        act(action)
        if len(calls) == 1:
            raise OSError("bus")

    robot.act = broken_once  # type: ignore[method-assign]
    with pytest.raises(OSError, match="bus"):
        loop.run(0)
    assert robot.actions == [0.8, 0.0]


@pytest.mark.parametrize("where", ["loop", "controller"])
def test_a_first_action_that_is_not_finite_moves_nothing(where: str) -> None:
    """The guard would put the middle of the box in its place, which may be far from where an arm
    is.
    """
    loop, robot, controller, _ = make([frame(8, 0), frame(8, 1)], stop=(None,))
    controller.refusals = {"finite": 3}
    loop.controller.act = lambda observation: np.array([np.nan])  # type: ignore[method-assign]
    if where == "controller":

        def replaced(observation: np.ndarray) -> np.ndarray:
            controller.refusals = {"finite": 4}
            return np.zeros(1)

        loop.controller.act = replaced  # type: ignore[method-assign]
    with pytest.raises(UserError, match="first action is not finite"):
        loop.run(0)
    assert robot.actions == []


def test_a_driver_that_never_obeys_is_given_up_loudly(caplog: pytest.LogCaptureFixture) -> None:
    loop, robot, _, _ = make([frame(8, 0)], stop=(0.0,))
    act, calls = robot.act, []

    def broken(action: np.ndarray) -> None:
        calls.append(action)
        if len(calls) > 1:
            raise OSError("bus")
        act(action)

    robot.act = broken  # type: ignore[method-assign]
    with pytest.raises(OSError, match="bus"):
        loop.run(0, steps=1)
    assert f"cannot be stopped, it refused {ATTEMPTS} actions: OSError: bus" in caplog.text


# ---- an operator ---------------------------------------------------------------------------------
