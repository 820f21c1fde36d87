"""What is chosen for a robot: environment, limits, rate, and the policy itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alltrades.data.interface import Interface
from alltrades.envs import registry
from alltrades.envs.robots import ActionSpec, Robot
from alltrades.envs.robots.environment import EnvironmentRobot
from alltrades.errors import UserError
from alltrades.policies.control.guard import ActionGuard
from alltrades.robots.fit import (
    environment_of,
    limits_of,
    make_controller,
    open_policy,
    rate_of,
    stop_of,
)
from tests.policies.toys import SMALL, info, make_policy


class Arm(Robot):
    def __init__(self, control_hz: float | None = None, **limits: Any) -> None:
        self.limits = ActionSpec(**({"low": (-1.0, -1.0), "high": (1.0, 1.0)} | limits))
        self.control_hz = control_hz

    def observe(self) -> np.ndarray: ...

    def act(self, action: np.ndarray) -> None: ...

    def close(self) -> None: ...


def limited(**limits: Any) -> Interface:
    environment = info("a")
    return replace(environment, action=replace(environment.action, **limits))


def test_the_environment_is_the_one_named_or_the_robots_own_or_the_only_one() -> None:
    one, two, wide = info("a"), info("b"), info("wide", action_dim=3)
    robot = Arm()
    assert environment_of([one], robot) is one and environment_of([one, two], robot, "b") is two
    robot.environment = "b"
    assert (
        environment_of([one, two], robot) is two and environment_of([one, two], robot, "a") is one
    )
    for environments, given, message in (
        ([one, two], None, "knows 2 environments"),
        ([one], "bb", "not know environment 'bb'"),
        ([one, wide], "wide", "takes 2 action values and 'wide' has 3"),
    ):
        with pytest.raises(UserError, match=message):
            environment_of(environments, Arm(), given)


def test_an_environment_that_changed_since_training_is_refused() -> None:
    spec = registry.get("planar/reach")
    robot, trained = EnvironmentRobot(spec), spec.interface
    assert environment_of([trained], robot) is trained
    with pytest.raises(UserError, match="changed since"):
        environment_of([replace(trained, version=2)], robot)


def test_the_narrowest_limits_of_environment_robot_and_file_hold(tmp_path: Path) -> None:
    environment = limited(rate=(0.3, 0.3), stop=(None, None))
    file = tmp_path / "limits.yaml"
    file.write_text("a: {high: 0.5, rate: [0.1, 0.4], acceleration: 0.05}\n")
    robot = Arm(low=(-0.2, -5.0), high=(9.0, 0.4), rate=(0.2, 0.2))
    found = limits_of(environment, robot, file)
    assert (found.low, found.high) == ((-0.2, -1.0), (0.5, 0.4))
    np.testing.assert_allclose(found.rate, (0.1, 0.2))
    np.testing.assert_allclose(found.acceleration, (0.05, 0.05))
    with pytest.raises(UserError, match="limits of the robot as 'a'"):
        limits_of(environment, Arm(low=(2.0, 2.0), high=(3.0, 3.0)))
    with pytest.raises(UserError, match="the stop action"):
        limits_of(environment, Arm(high=(1.0, 0.7), stop=(0.0, 0.6)), file)


def test_the_rate_is_the_robots_and_must_be_that_of_the_training() -> None:
    environment = info("a")  # 10 Hz
    assert rate_of(environment, Arm()) == rate_of(environment, Arm(control_hz=10.0)) == 10.0
    assert rate_of(environment, Arm(control_hz=50.0), given=25.0) == 25.0
    with pytest.raises(UserError, match="runs at 50 Hz and 'a' was trained at 10 Hz"):
        rate_of(environment, Arm(control_hz=50.0))


def test_a_policy_folder_acts_within_the_limits_given(tmp_path: Path) -> None:
    make_policy([info("a"), info("b", obs_dim=5)], SMALL).save(tmp_path / "p")
    policy = open_policy(str(tmp_path / "p"))
    limits = limits_of(
        policy.environments[1], Arm(low=(0.1, 0.1), high=(0.2, 0.2), stop=(None, 0.1))
    )
    for mode in ("sync", "async"):
        with make_controller(mode, policy, {"b": limits}, 1.0) as controller:
            controller.reset(environment="b", seed=0)
            action = controller.act(np.ones(5, np.float32))
        assert ((action >= np.float32(0.1)) & (action <= np.float32(0.2))).all()


def test_a_robot_stops_as_it_says_or_as_its_environment_does_unless_it_waits() -> None:
    environment, spec = limited(stop=(0.0, None)), registry.get("planar/reach")
    assert stop_of(environment, Arm()) == (0.0, None)
    assert stop_of(environment, Arm(stop=(0.5, 0.5))) == (0.5, 0.5)
    assert spec.action.stop is not None and stop_of(spec.interface, EnvironmentRobot(spec)) is None


def test_a_robot_of_which_nobody_knows_how_it_stops_is_refused() -> None:
    with pytest.raises(UserError, match="what brings it to rest"):
        stop_of(info("a"), Arm())


@pytest.mark.parametrize(("rate", "factor"), [(50.0, 5.0), (10.0, 1.0), (5.0, 0.5)])
def test_limits_per_second_stay_at_another_control_rate(
    rate: float, factor: float, tmp_path: Path
) -> None:
    environment = limited(
        rate=(0.3, 0.5),
        acceleration=(0.2, 0.2),
        stop=(0.0, 0.0),
    )
    robot = Arm(
        control_hz=20.0, rate=(0.2, 0.2), acceleration=(0.02, 0.08)
    )  # per 50 ms; the environment: per 100 ms
    found = limits_of(environment, robot, None, rate)
    np.testing.assert_allclose(found.rate, np.array((0.3, 0.4)) / factor)
    np.testing.assert_allclose(found.acceleration, np.array((0.08, 0.2)) / factor**2)
    assert (found.low, found.high) == ((-1.0, -1.0), (1.0, 1.0))
    file = tmp_path / "limits.yaml"
    file.write_text("a: {rate: 0.1, acceleration: 0.01}\n")
    found = limits_of(environment, robot, file, rate)
    np.testing.assert_allclose(found.rate, np.full(2, 0.1) / factor)
    np.testing.assert_allclose(found.acceleration, np.full(2, 0.01) / factor**2)


def test_at_five_times_the_rate_a_robot_is_as_quick_per_second() -> None:
    environment = limited(rate=(0.1, 0.1), stop=(0.0, 0.0))
    for rate in (10.0, 50.0):
        guard = ActionGuard(limits_of(environment, Arm(), None, rate))
        sent = np.zeros((1, 2), np.float32)
        for _ in range(int(rate) // 2):  # half a second
            sent = guard(np.ones((1, 2)), sent)
        np.testing.assert_allclose(sent, 0.5, rtol=1e-5)


def test_a_robot_that_waits_keeps_the_limits_of_its_own_time() -> None:
    spec = registry.get("planar/reach")
    spec = replace(spec, action=replace(spec.action, rate=(0.1, 0.1)))
    assert limits_of(spec.interface, EnvironmentRobot(spec), None, 200.0).rate == (
        0.1,
        0.1,
    )


@pytest.mark.parametrize(
    ("artifact", "message"),
    [
        ("nowhere", "no policy here"),
        ("nowhere.onnx", "no such file"),
        ("ws://:80", "expected ws://"),
        ("ws://localhost", "expected ws://"),
        ("ws://h:port", "expected ws://"),
        ("ws://127.0.0.1:1", "no policy server"),
    ],
)
def test_what_is_no_policy_is_a_user_error(
    artifact: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if artifact.startswith("ws"):
        pytest.importorskip(
            "websockets", minversion="16", reason="needs: pip install alltrades[serve]"
        )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        open_policy(artifact)
