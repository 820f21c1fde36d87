"""Robots: an environment that waits, physics that do not, and what a name on the command line
stands for.
"""

from __future__ import annotations

import time
from dataclasses import replace
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest

from alltrades.data.fields import Field
from alltrades.envs import registry
from alltrades.envs.adapter import EnvAdapter
from alltrades.envs.robots import ActionSpec, Robot, load
from alltrades.envs.robots.environment import EnvironmentRobot
from alltrades.envs.robots.load import load_robot
from alltrades.envs.robots.plants import MjcfPlant, PlanarPlant
from alltrades.envs.robots.realtime import RealTimeRobot
from alltrades.errors import UserError
from alltrades.system import extensions
from alltrades.system.extensions import Extensions

PENDULUM = """<mujoco><option timestep="0.004"/><worldbody><body>
<joint name="hinge" type="hinge" axis="0 1 0" damping="0.1"/>
<geom type="capsule" fromto="0 0 0 0 0 -0.5" size="0.02" mass="1"/></body></worldbody>
<actuator><motor joint="hinge" ctrlrange="-2 2" ctrllimited="true"/></actuator>{extra}</mujoco>"""


class Clock:
    now = 50.0

    def __call__(self) -> float:
        return self.now


def planar(task: str = "planar/reach") -> tuple[RealTimeRobot, Clock]:
    clock = Clock()
    return RealTimeRobot(PlanarPlant(registry.get(task)), clock, threaded=False), clock


# ---- an environment ------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["planar/push", "gym:Pendulum-v1"])
def test_an_environment_goes_through_the_episode_of_its_adapter(name: str) -> None:
    spec = registry.get(name)
    robot, adapter = EnvironmentRobot(spec), EnvAdapter(spec)
    robot.reset(11)
    want = adapter.reset(11)
    rng = np.random.default_rng(0)
    for _ in range(20):
        np.testing.assert_equal(robot.observe().observation, want)
        action = rng.uniform(robot.limits.low, robot.limits.high).astype(np.float32)
        robot.act(action)
        result = adapter.step(action)
        assert robot.outcome() == (result.reward, result.success, result.done)
        want = result.observation
    first, second = robot.observe(), robot.observe()
    assert first.stamp == second.stamp  # nothing has happened in between
    robot.close()


# ---- real time -----------------------------------------------------------------------------------
@pytest.mark.parametrize("task", ["planar/reach", "planar/push"])
def test_actions_that_come_in_time_give_the_episode_of_the_environment_bit_for_bit(
    task: str,
) -> None:
    robot, clock = planar(task)
    adapter = EnvAdapter(registry.get(task))
    robot.reset(3)
    want = adapter.reset(3)
    rng = np.random.default_rng(1)
    for k in range(30):
        clock.now = 50.0 + k / 20
        np.testing.assert_array_equal(robot.observe().observation, want["state"])
        action = rng.uniform(-1, 1, 2).astype(np.float32)
        robot.act(action)
        want = adapter.step(action).observation


def test_a_late_action_is_executed_late_and_the_one_before_it_goes_on() -> None:
    """Against the same moments driven through MuJoCo by hand."""
    robot, clock = planar("planar/push")
    robot.reset(3)
    first, second = np.array([1.0, -0.5], np.float32), np.array([-1.0, 0.2], np.float32)
    robot.act(first)
    clock.now += 0.131  # the policy takes its time: 13 steps of 10 ms
    robot.act(second)
    clock.now += 0.049  # 18 steps in all
    got = robot.observe()
    env = registry.get("planar/push").make()
    env.reset(seed=3)
    for action, steps in ((first, 13), (second, 5)):
        env.data.ctrl[:] = (
            env.params.speed * action
        )  # a gantry: its servos take the velocity as it is
        for _ in range(steps):
            mujoco.mj_step(env.model, env.data)
    assert got.stamp == 18
    np.testing.assert_allclose(
        got.observation[:4], [*env.data.qpos[:2], *env.data.qvel[:2]], rtol=1e-6
    )


def test_before_the_first_action_and_after_the_stop_action_the_robot_rests() -> None:
    robot, clock = planar()
    robot.reset(0)
    start = robot.observe().observation
    clock.now += 1.0
    np.testing.assert_allclose(robot.observe().observation[:2], start[:2], atol=1e-6)
    robot.act(np.ones(2, np.float32))
    clock.now += 0.3
    assert np.abs(robot.observe().observation[:2] - start[:2]).max() > 0.01


def test_a_success_between_two_observations_counts_and_an_episode_ends_by_its_clock() -> None:
    robot, clock = planar("planar/reach")
    robot.reset(5)
    expert, steps = registry.expert("planar/reach"), 0
    assert expert is not None
    while (
        True
    ):  # blind to outcomes: the policy asks only once it has moved through the goal and away
        observation = robot.observe().observation
        if np.linalg.norm(observation[:2] - observation[8:10]) < 0.03:
            break
        robot.act(expert(observation))
        clock.now += 0.05
        steps += 1
        assert steps < 80
    clock.now += 0.051
    robot.act(np.array([1.0, -1.0], np.float32))
    clock.now += 0.5
    found = robot.outcome()
    observation = robot.observe().observation
    assert (
        np.linalg.norm(observation[:2] - observation[8:10]) > 0.03 and found.success and found.done
    )
    robot.reset(6)
    assert not robot.outcome().done
    clock.now += 80 / 20 - 0.01
    assert not robot.outcome().done
    clock.now += 0.01
    assert robot.outcome().done and not robot.outcome().success


def test_the_thread_moves_the_robot_while_nobody_asks() -> None:
    plant = PlanarPlant(registry.get("planar/push"))
    robot = RealTimeRobot(plant)
    robot.reset(0)
    robot.act(np.array([1.0, 0.0], np.float32))
    before = plant.look()[0][0]
    deadline = time.monotonic() + 30
    while (
        plant.look()[0][0] < before + 0.02 and time.monotonic() < deadline
    ):  # past the robot's own methods
        time.sleep(0.01)
    assert plant.look()[0][0] >= before + 0.02
    robot.close()
    still = plant.look()[0][0]
    time.sleep(0.05)
    assert plant.look()[0][0] == still


def test_a_model_file_is_driven_by_its_actuators_and_seen_through_its_sensors(
    tmp_path: Path,
) -> None:
    path = tmp_path / "pendulum.xml"
    path.write_text(PENDULUM.format(extra='<keyframe><key qpos="0.3"/></keyframe>'))
    clock = Clock()
    robot = RealTimeRobot(MjcfPlant(path), clock, threaded=False)
    assert robot.limits == ActionSpec([-2.0], [2.0], stop=[0.0])
    robot.reset(0)
    np.testing.assert_allclose(robot.observe().observation, [0.3, 0.0], atol=1e-7)
    robot.act(np.array([1.5]))
    clock.now += 0.2
    model = mujoco.MjModel.from_xml_path(str(path))
    data = mujoco.MjData(model)
    data.qpos[0], data.ctrl[0] = 0.3, 1.5
    mujoco.mj_step(model, data, 50)
    np.testing.assert_allclose(robot.observe().observation, [*data.qpos, *data.qvel], rtol=1e-5)
    path.write_text(PENDULUM.format(extra='<sensor><jointvel joint="hinge"/></sensor>'))
    robot = RealTimeRobot(MjcfPlant(path), clock, threaded=False)
    robot.reset(0)
    assert robot.observe().observation.shape == (1,)


def test_a_position_servo_stops_by_holding(tmp_path: Path) -> None:
    path = tmp_path / "servo.xml"
    path.write_text(PENDULUM.format(extra="").replace("<motor ", '<position kp="20" '))
    assert MjcfPlant(path).limits.stop == (None,)


# ---- names ---------------------------------------------------------------------------------------
class Arm(gymnasium.Env):
    """A robot behind Gymnasium's interface, which notes what is done with it."""

    done: list[str] = []
    metadata = {"render_fps": 20}
    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Box(-1, 1, (1,))

    def __init__(self) -> None:
        self.done.append("connect")

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.done.append("reset")
        return np.zeros(2, np.float32), {}

    def step(self, action: np.ndarray) -> Any:
        self.done.append(f"step {action[0]:.2f}")
        return np.zeros(2, np.float32), 0.0, False, False, {}


def test_an_environment_that_is_deployed_on_does_nothing_but_what_it_is_told(capsys) -> None:
    """No trial with random actions and no second connection: it may be a real robot."""
    registry.register("own/arm", Arm, replace=True, max_steps=5, control_hz=50)
    registry.get("own/arm")  # reads its spaces
    Arm.done.clear()
    robot = load_robot("env:own/arm")
    assert Arm.done == ["connect"]
    assert (
        "its metadata say 20 Hz (render_fps) and its registration 50 Hz" in capsys.readouterr().err
    )
    robot.reset(0)
    robot.act(np.array([0.25], np.float32))
    assert Arm.done == ["connect", "reset", "step 0.25"]
    robot.close()


def test_names_give_the_robots_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "named_robot.py").write_text(
        "from alltrades.envs.robots import ActionSpec\n"
        "class Mine:\n"
        "    limits = ActionSpec((-1,), (1,))\n"
        "    def observe(self): ...\n    def act(self, action): ...\n    def close(self): ...\n"
        "class Half:\n    limits = Mine.limits\n    def act(self, action): ...\n"
        "class Odd(Mine):\n    control_hz = 0\n"
        "class Wrong(Mine):\n    limits = (-1, 1)\n"
        "number = 3\n"
    )
    assert isinstance(load_robot("gym:Pendulum-v1"), EnvironmentRobot)
    assert isinstance(load_robot("env:planar/reach"), EnvironmentRobot)
    assert isinstance(load_robot("mujoco:planar/reach"), RealTimeRobot)
    told = replace(registry.get("planar/reach"), observation={"state": Field.state(16)})
    seen = [replace(told, observation=dict(told.observation) | {"instruction": Field.text()})]
    robot = load_robot("env:planar/reach", [s.interface for s in seen])
    robot.reset(0)
    (said,) = [v for v in robot.observe().observation.values() if isinstance(v, str)]
    assert said in registry.get("planar/reach").instructions.goals[0].training
    with pytest.raises(UserError, match="observes state and the policy sees instruction too"):
        load_robot("mujoco:planar/reach", [s.interface for s in seen])
    for name in ("named_robot:Mine", "named_robot.py:Mine"):
        robot = load_robot(name)  # what it does not have is as a robot's by default
        assert isinstance(robot, Robot) and robot.limits == ActionSpec((-1,), (1,))
        assert robot.control_hz is None and not robot.waits and robot.outcome() is None
        robot.reset(0)
    with pytest.raises(UserError, match="named_robot:Odd': control_hz is 0"):
        load_robot("named_robot:Odd")
    for name, message in (
        ("planar/reach", "expected gym:ID"),
        ("named_robot:Nobody", "no 'Nobody'"),
        ("named_robot:Half", "no observe, no close"),
        ("named_robot:number", "is a int"),
        ("named_robot:Wrong", "limits is a tuple"),
        ("no_such_module:Mine", "cannot be imported"),
        ("env:planar/reech", "did you mean"),
        ("mujoco:gym:Pendulum-v1", "use env:"),
        ("mujoco:nowhere.xml", "MuJoCo cannot read"),
        ("gym:Nothing-v7", "Gymnasium knows no"),
    ):
        with pytest.raises(UserError, match=message):
            load_robot(name)


def test_robots_of_plugins_and_packages_have_names_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Arm:
        limits = ActionSpec((-1,), (1,))

        def observe(self) -> dict[str, object]:
            return {"joints": [0.0], "instruction": "wave"}

        def act(self, action: np.ndarray) -> None: ...

        def close(self) -> None: ...

    points = EntryPoints([EntryPoint("packaged", "fractions:Fraction", "alltrades.robots")])
    monkeypatch.setattr(extensions, "entry_points", lambda **chosen: points.select(**chosen))
    monkeypatch.setattr(load, "ROBOTS", Extensions("alltrades.robots", "robot", {}))
    load.ROBOTS.register("my-arm", Arm)
    robot = load_robot("my-arm")
    assert isinstance(robot, Robot) and robot.limits == Arm.limits
    assert robot.observe() == {"joints": [0.0], "instruction": "wave"}
    with pytest.raises(UserError, match="robot 'packaged' has no observe"):  # it was called
        load_robot("packaged")
    with pytest.raises(UserError, match="did you mean 'my-arm'.*one of my-arm, packaged; load"):
        load_robot("my-arn")
