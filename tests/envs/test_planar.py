import numpy as np
import pytest

from alltrades.envs.adapter import EnvAdapter
from alltrades.envs.planar.env import TASKS, PlanarEnv
from alltrades.envs.planar.model import PlanarParams
from alltrades.envs.planar.registration import DEFAULT, planar_spec, specs, suites

SPECS = {spec.id: (spec, expert) for spec, expert in specs()}


def run(env_id, seed, act=None):
    """(success, observations, actions) of the expert's episode, or of another act(observation)."""
    spec, expert = SPECS[env_id]
    adapter = EnvAdapter(spec)
    observations, actions = [adapter.reset(seed)["state"]], []
    expert.reset(seed)
    while True:
        action = expert(adapter.expert_observation) if act is None else act(observations[-1])
        result = adapter.step(action)
        actions.append(action)
        if result.done:
            return result.success, np.array(observations), np.array(actions)
        observations.append(result.observation["state"])


@pytest.mark.parametrize("env_id", SPECS)
def test_expert_succeeds_on_at_least_95_of_100_starts_and_random_actions_do_not(env_id):
    assert sum(run(env_id, seed)[0] for seed in range(100)) >= 95
    rng = np.random.default_rng(0)
    assert sum(run(env_id, seed, lambda o: rng.uniform(-1, 1, 2))[0] for seed in range(20)) <= 2


@pytest.mark.parametrize("task", TASKS)
def test_episode_is_a_function_of_seed_and_actions_in_a_used_instance_too(task):
    spec, _ = planar_spec("t", task)
    actions = np.random.default_rng(0).uniform(-1, 1, (30, 2))
    used, fresh = spec.make(), spec.make()
    used.reset(seed=9)
    for a in actions:
        used.step(a)
    for env in (used, fresh):
        env.reset(seed=4)
    for a in actions:
        x, y = used.step(a), fresh.step(a)
        assert np.array_equal(x[0], y[0]) and x[1] == y[1]


@pytest.mark.parametrize("task", TASKS)
def test_starts_are_distinct(task):
    env = PlanarEnv(task)
    assert len({env.reset(seed=s)[0].tobytes() for s in range(200)}) == 200


def test_obstacle_expert_passes_on_both_sides_and_the_side_comes_from_the_seed():
    sides = []
    for seed in range(40):
        success, observations, _ = run("planar/obstacle", seed)
        level = np.argmin(np.abs(observations[:, 1] - observations[:, 5]))  # beside the obstacle
        sides.append(np.sign(observations[level, 0] - observations[level, 4]))
        assert success and np.array_equal(observations, run("planar/obstacle", seed)[1])
    assert 10 <= sides.count(1.0) <= 30 and sides.count(1.0) + sides.count(-1.0) == 40


def test_obstacle_cannot_be_crossed():
    for seed in range(20):
        _, observations, _ = run(
            "planar/obstacle", seed, lambda o: np.clip(8 * (o[8:10] - o[:2]), -1, 1)
        )
        gap = np.linalg.norm(observations[:, :2] - observations[:, 4:6], axis=1)
        assert gap.min() > 0.12  # radii 0.12 and 0.03, soft contact


@pytest.mark.parametrize(
    ("task", "change"),
    [
        ("reach", {"links": (0.55, 0.3)}),
        ("reach", {"damping": 40.0}),
        ("push", {"object_mass": 3.0}),
        ("push", {"object_damping": 30.0}),
        ("drawer", {"gain": 5.0}),
        ("obstacle", {"mass": 5.0}),
        ("obstacle", {"speed": 0.2}),
    ],
)
def test_parameters_change_the_dynamics(task, change):
    spec, expert = planar_spec("t", task)
    base, changed = PlanarEnv(task), PlanarEnv(task, PlanarParams(**change))
    observation = base.reset(seed=1)[0]
    changed.reset(seed=1)
    expert.reset(1)
    largest = 0.0
    for _ in range(70):
        action = expert(observation)
        observation, other = base.step(action)[0], changed.step(action)[0]
        largest = max(largest, float(np.abs(observation[:6] - other[:6]).max()))
    assert largest > 1e-3


def test_conflicting_pair_shows_equal_observations_and_has_different_experts():
    first, second = (SPECS[i] for i in suites()["planar-conflict"])
    a, b = first[0].make(), second[0].make()
    differ = 0
    for seed in range(20):
        x, y = a.reset(seed=seed)[0], b.reset(seed=seed)[0]
        if np.array_equal(x, y):
            differ += not np.allclose(first[1](x), second[1](x), atol=0.2)
    assert differ >= 10


def test_hidden_goal_is_nowhere_in_the_observation():
    env, shown = PlanarEnv("reach", PlanarParams(goal_visible=False)), PlanarEnv("reach")
    observation, info = env.reset(seed=3)
    full, _ = shown.reset(seed=3)
    assert np.array_equal(info["expert_observation"], full)
    goal = full[8:10]
    assert (
        not any(np.isclose(observation, g).any() for g in goal)
        and (observation[[8, 9, 12, 13, 15]] == 0).all()
    )


def test_suite_covers_reach_push_obstacle_and_drawer():
    assert {SPECS[f"planar/{n}"][1].task for n in DEFAULT} == set(TASKS)
    assert suites()["planar"] == [f"planar/{n}" for n in DEFAULT]


def test_unknown_task_is_refused():
    with pytest.raises(ValueError, match="expected one of reach"):
        PlanarEnv("fly")


@pytest.mark.parametrize("name, unit", [("reach-milli", 1e-3), ("reach-kilo", 1e3)])
def test_the_same_task_in_other_units_of_actions_takes_the_same_way(name, unit):
    plain, scaled = (EnvAdapter(SPECS[f"planar/{n}"][0]) for n in ("reach", name))
    expert, other = SPECS["planar/reach"][1], SPECS[f"planar/{name}"][1]
    a, b = plain.reset(3)["state"], scaled.reset(3)["state"]
    for _ in range(30):
        action = expert(a)
        np.testing.assert_allclose(other(a), unit * action, rtol=1e-6)
        a, b = (
            plain.step(action).observation["state"],
            scaled.step(unit * action).observation["state"],
        )
        np.testing.assert_allclose(a, b, atol=1e-5)
    np.testing.assert_allclose(scaled.spec.action.box[1], unit)
