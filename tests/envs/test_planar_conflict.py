"""Planar environments that conflict: the same observations, experts that do something else."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from alltrades.envs.planar.env import PlanarEnv
from alltrades.envs.planar.model import TASKS, PlanarParams
from alltrades.envs.planar.registration import VARIANTS, planar_spec, specs, suites

MIRRORED = PlanarParams(mirror=True)


@pytest.mark.parametrize("task", TASKS)
def test_mirrored_task_starts_bit_equal_on_every_seed_and_keeps_its_dynamics(task):
    plain, mirrored = PlanarEnv(task), PlanarEnv(task, MIRRORED)
    for seed in [*range(200), 2**62 + 5]:
        assert np.array_equal(plain.reset(seed=seed)[0], mirrored.reset(seed=seed)[0])
    for action in np.random.default_rng(0).uniform(-1, 1, (40, 2)):
        assert np.array_equal(plain.step(action)[0], mirrored.step(action)[0])


@pytest.mark.parametrize("task", TASKS)
def test_experts_of_a_mirrored_pair_part_in_most_episodes(task):
    """Along the first expert's episode, at the observations it meets, the other one would have done
    something else.
    """
    (spec, first), (_, second) = planar_spec("t", task), planar_spec("t", task, MIRRORED)
    env, apart = spec.make(), 0
    for seed in range(40):
        observation, info = env.reset(seed=seed)
        first.reset(seed)
        second.reset(seed)
        largest = 0.0
        for _ in range(spec.max_steps):
            action = first(observation)
            largest = max(largest, float(np.abs(action - second(observation)).max()))
            observation, _, _, _, info = env.step(action)
            if info["success"]:
                break
        apart += largest > 0.5
    assert apart >= 35


def test_one_action_does_not_serve_both_tasks_of_a_mirrored_pair():
    """The plain expert fails in the mirrored environment, except where the two goals nearly
    coincide.
    """
    for task in TASKS:
        (_, plain), (spec, _) = planar_spec("t", task), planar_spec("t", task, MIRRORED)
        env, successes = spec.make(), 0
        for seed in range(30):
            observation, info = env.reset(seed=seed)
            plain.reset(seed)
            for _ in range(spec.max_steps):
                observation, _, _, _, info = env.step(plain(observation))
                if info["success"]:
                    successes += 1
                    break
        assert successes <= 10, task


def test_mirrored_drawer_is_pushed_in_and_the_plain_one_pulled_out():
    for mirror, sign in ((False, -1.0), (True, 1.0)):
        spec, expert = planar_spec("t", "drawer", PlanarParams(mirror=mirror))
        env = spec.make()
        for seed in range(10):
            observation, info = env.reset(seed=seed)
            start = observation[5]
            for _ in range(spec.max_steps):
                observation, _, _, _, info = env.step(expert(observation))
                if info["success"]:
                    break
            assert info["success"] and sign * (observation[5] - start) >= observation[15] - 1e-5


@pytest.mark.parametrize("task", ["push", "obstacle", "drawer"])
def test_hidden_goal_leaves_no_trace_in_the_observation(task):
    """Two goals over one scene give one observation: what is shown does not depend on the goal."""
    env = PlanarEnv(task, PlanarParams(goal_visible=False))
    observation, info = env.reset(seed=5)
    env.shown, env.goal, env.wanted = (0.11, 0.22), (0.11, 0.22), 0.33
    other, _, _ = env._look()
    assert np.array_equal(observation, other) and not np.array_equal(
        info["expert_observation"], observation
    )


def test_suites_are_registered_variants_with_the_visible_and_agreeing_six_by_default():
    ids = {spec.id for spec, _ in specs()}
    assert (
        all(set(members) <= ids for members in suites().values()) and len(suites()["planar"]) == 6
    )
    for name in suites()["planar"]:
        params = VARIANTS[name.removeprefix("planar/")][1]
        assert params.goal_visible and not params.mirror


def test_specifications_are_listed_without_the_simulator():
    code = (
        "import sys; from alltrades.envs.planar import registration; registration.specs(); "
        "sys.exit('mujoco' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
