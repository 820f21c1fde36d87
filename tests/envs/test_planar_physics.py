"""The planar simulation against closed forms, and the contracts of its classes."""

from __future__ import annotations

import math
import pickle

import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from alltrades.envs.planar.env import PlanarEnv
from alltrades.envs.planar.model import SUBSTEPS, TASKS, TIMESTEP, PlanarParams
from alltrades.envs.planar.registration import planar_spec, specs
from alltrades.envs.speed import measure_speed
from alltrades.errors import UserError

CONTROL_STEP = SUBSTEPS * TIMESTEP  # s


@pytest.mark.parametrize(("speed", "gain", "damping"), [(0.6, 30.0, 1.0), (0.3, 10.0, 5.0)])
def test_effector_settles_at_the_speed_where_servo_and_damping_balance(speed, gain, damping):
    env = PlanarEnv("push", PlanarParams(speed=speed, gain=gain, damping=damping))
    env.reset(seed=0)
    env.qpos[:4] = -0.5, 0.4, 0.3, -0.4  # the puck out of the way
    for _ in range(16):
        observation = env.step(np.array([1.0, 0.0], np.float32))[0]
    assert observation[2] == pytest.approx(
        speed * gain / (gain + damping), rel=1e-3
    )  # gain (v_command - v) = damping v
    assert observation[3] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(("mass", "damping"), [(0.5, 6.0), (2.0, 6.0), (0.5, 1.0)])
def test_free_puck_slows_down_exponentially_with_its_mass_and_damping(mass, damping):
    env = PlanarEnv("push", PlanarParams(object_mass=mass, object_damping=damping))
    env.reset(seed=0)
    env.qpos[:4] = -0.5, -0.5, 0.0, 0.2
    env.qvel[2] = 1.0
    observation = env.step(np.zeros(2, np.float32))[0]
    implicit = (
        1 + TIMESTEP * damping / mass
    ) ** -SUBSTEPS  # of the implicit integrator, v' = v / (1 + h c / m)
    assert observation[6] == pytest.approx(implicit, rel=1e-4)
    assert observation[6] == pytest.approx(math.exp(-CONTROL_STEP * damping / mass), abs=0.04)


def test_arm_tip_in_the_observation_is_where_mujoco_puts_it():
    env = PlanarEnv("reach", PlanarParams(links=(0.5, 0.3)))
    rng = np.random.default_rng(0)
    for seed in range(10):
        env.reset(seed=seed)
        for _ in range(5):
            observation = env.step(rng.uniform(-1, 1, 2).astype(np.float32))[0]
        mujoco.mj_forward(env.model, env.data)
        forearm = mujoco.mj_name2id(env.model, mujoco.mjtObj.mjOBJ_BODY, "forearm")
        tip = env.data.xpos[forearm] + env.data.xmat[forearm].reshape(3, 3) @ [0.3, 0.0, 0.0]
        jacobian = np.zeros((3, 2))
        mujoco.mj_jac(env.model, env.data, jacobian, None, tip, forearm)
        np.testing.assert_allclose(observation[:2], tip[:2], atol=1e-6)
        np.testing.assert_allclose(observation[2:4], (jacobian @ env.qvel)[:2], atol=1e-6)


def test_arm_follows_a_velocity_command_of_its_tip():
    env = PlanarEnv("reach")
    for command in ((0.5, 0.0), (0.0, 0.5), (-0.4, 0.3)):
        env.reset(seed=0)
        env.qpos[:2], env.qvel[:] = (0.9, 1.4), 0.0
        for _ in range(6):
            observation = env.step(np.array(command, np.float32))[0]
        velocity, wanted = observation[2:4] / env.params.speed, np.array(command)
        assert velocity @ wanted > 0.95 * np.linalg.norm(velocity) * np.linalg.norm(wanted)
        assert 0.6 < np.linalg.norm(velocity) / np.linalg.norm(wanted) < 1.1


def test_drawer_slides_along_y_only_and_moves_when_it_is_touched_only():
    env, (_, expert) = PlanarEnv("drawer"), planar_spec("t", "drawer")
    touched = 0
    for seed in range(10):
        observation = env.reset(seed=seed)[0]
        start = observation[4:6].copy()
        info = {"success": False}
        while not info["success"]:
            before = observation
            observation, _, _, _, info = env.step(expert(before))
            touched += env.data.ncon > 0
            assert abs(observation[4] - start[0]) < 1e-3
            if np.linalg.norm(before[10:12]) > 0.2:  # farther than any contact in this step
                np.testing.assert_allclose(observation[5], before[5], atol=1e-6)
        assert observation[14] >= observation[15] > 0.1  # opened as far as wanted
    assert touched > 50


@pytest.mark.parametrize("task", TASKS)
def test_reward_is_minus_the_distance_left_plus_success(task):
    spec, expert = planar_spec("t", task)
    env = spec.make()
    observation, _ = env.reset(seed=3)
    expert.reset(3)
    for _ in range(spec.max_steps):
        observation, reward, _, _, info = env.step(expert(observation))
        if task == "drawer":
            left = max(0.0, observation[15] - observation[14])
        else:
            moved = observation[4:6] if task == "push" else observation[:2]
            left = float(np.linalg.norm(observation[8:10] - moved))
        assert reward == pytest.approx(info["success"] - left, abs=1e-5)
        if info["success"]:
            return
    pytest.fail("the expert did not succeed")


@pytest.mark.parametrize("task", TASKS)
def test_gymnasium_accepts_the_environment(task):
    check_env(PlanarEnv(task), skip_render_check=True)


def test_specification_and_expert_survive_pickling():
    for spec, expert in specs():
        again, other = pickle.loads(pickle.dumps((spec, expert)))
        env, twin = spec.make(), again.make()
        observation, info = env.reset(seed=7)
        assert again.interface.digest() == spec.interface.digest() and np.array_equal(
            observation, twin.reset(seed=7)[0]
        )
        expert.reset(7)
        other.reset(7)
        seen = info.get("expert_observation", observation)
        assert np.array_equal(expert(seen), other(seen))


def test_trajectory_point_is_effector_and_object():
    for task in TASKS:
        env = PlanarEnv(task)
        observation, _ = env.reset(seed=2)
        assert np.array_equal(env.trajectory_point(), [observation[0:2], observation[4:6]])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"object_mass": 0.0}, "object_mass is 0"),
        ({"speed": float("nan")}, "speed is nan"),
        ({"damping": -1.0}, "damping is -1"),
        ({"links": (0.4,)}, "links has 1"),
        ({"links": (0.4, -0.4)}, "links is -0.4"),
    ],
)
def test_parameters_no_simulation_can_have_are_refused_by_name(change, named):
    with pytest.raises(UserError, match=named):
        PlanarParams(**change)
    assert PlanarParams(damping=0.0, object_damping=0.0).damping == 0.0


def test_unknown_task_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match="did you mean 'push'"):
        planar_spec("mine/pusch", "pusch")


def test_speed_counts_steps_of_any_specification():
    spec, _ = planar_spec("mine/drawer", "drawer", PlanarParams(object_damping=2.0))
    assert measure_speed(spec, 0.01) > 0
