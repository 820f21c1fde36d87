"""Meta-World: starts come from the seed alone, the goal can be hidden, the time limit is ours."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from alltrades.envs import registry
from alltrades.envs.adapter import EnvAdapter
from alltrades.envs.suites import metaworld

pytest.importorskip("metaworld", reason="needs: pip install alltrades[metaworld]")


@pytest.fixture(scope="module")
def adapters():
    """One adapter per id for the whole module: building takes most of a second."""
    built: dict[str, EnvAdapter] = {}

    def adapter(env_id: str) -> EnvAdapter:
        return built.setdefault(env_id, EnvAdapter(registry.get(env_id)))

    yield adapter
    for a in built.values():
        a.close()


def episode(adapter: EnvAdapter, seed: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Observations and rewards under the expert with every third action at random: contacts and
    detours.
    """
    expert = registry.expert(adapter.spec.id)
    assert expert is not None
    rng = np.random.default_rng(1)
    observations, rewards = [adapter.reset(seed)["state"]], []
    for k in range(steps):
        noise = rng.uniform(-1, 1, 4)
        result = adapter.step(noise if k % 3 == 0 else expert(adapter.expert_observation))
        observations.append(result.observation["state"])
        rewards.append(result.reward)
    return np.array(observations), np.array(rewards)


@pytest.mark.parametrize("task", metaworld.MT50)
def test_what_is_seen_is_what_the_package_sees(adapters, task):
    adapter = adapters(f"metaworld/{task}")
    adapter.reset(4)
    own, expert = adapter._env.env, registry.expert(f"metaworld/{task}")
    for _ in range(30):
        adapter.step(expert(adapter.expert_observation))
        theirs = type(own)._get_curr_obs_combined_no_goal(own)
        assert own._get_curr_obs_combined_no_goal().tobytes() == theirs.tobytes()


def test_orientations_are_those_of_scipy():
    from scipy.spatial.transform import Rotation

    from alltrades.envs.suites.metaworld import Orientation

    rng = np.random.default_rng(0)
    every = [*Rotation.random(2000, rng=rng).as_matrix()]
    quarters = Rotation.from_euler("xyz", 90 * rng.integers(0, 4, (60, 3)), degrees=True)
    every += [*quarters.as_matrix(), *np.round(quarters.as_matrix()), np.eye(3)]
    for matrix in every:
        ours = Orientation.from_matrix(matrix).as_quat()
        assert ours.tobytes() == Rotation.from_matrix(matrix).as_quat().tobytes()


def test_names_are_those_of_the_package():
    from metaworld import env_dict

    assert len(metaworld.MT50) == 50 and set(metaworld.MT50) == set(env_dict.ALL_V3_ENVIRONMENTS)
    assert set(metaworld.MT10) == set(env_dict.MT10_V3)


@pytest.mark.parametrize("task", ["push-v3", "drawer-open-v3", "stick-pull-v3"])
def test_same_seed_gives_a_bit_equal_episode_in_a_used_and_in_a_fresh_instance(adapters, task):
    used = adapters(f"metaworld/{task}")
    episode(used, 9, 45)
    episode(used, 11, 21)
    again = episode(used, 5, 40)
    fresh = EnvAdapter(used.spec)
    first = episode(fresh, 5, 40)
    fresh.close()
    assert np.array_equal(again[0], first[0]) and np.array_equal(again[1], first[1])


@pytest.mark.parametrize(
    "task, part",
    [("reach-v3", slice(36, 39)), ("push-v3", slice(4, 7)), ("door-open-v3", slice(4, 7))],
)
def test_every_seed_has_a_start_of_its_own_unlike_the_packages_fifty(adapters, task, part):
    adapter = adapters(f"metaworld/{task}")
    starts = np.array([adapter.reset(seed)["state"][part] for seed in range(80)])
    assert len(np.unique(starts, axis=0)) == 80


def test_goals_fill_the_tasks_range_uniformly(adapters):
    adapter = adapters("metaworld/reach-v3")
    goals = np.array([adapter.reset(seed)["state"][36:39] for seed in range(150)], dtype=np.float64)
    box = adapter._env.env._random_reset_space  # object position, then goal position
    low, high = box.low[3:], box.high[3:]
    assert (goals >= low - 1e-6).all() and (goals <= high + 1e-6).all()
    unit = (goals - low) / (high - low)
    assert np.abs(unit.mean(0) - 0.5).max() < 4 * np.sqrt(
        1 / 12 / 150
    )  # four standard errors of a uniform mean


def test_starts_do_not_depend_on_numpys_global_seed(adapters):
    adapter = adapters("metaworld/reach-v3")
    np.random.seed(0)
    first = adapter.reset(3)["state"]
    np.random.seed(1)
    assert np.array_equal(adapter.reset(3)["state"], first)


def test_hidden_variant_zeroes_the_goal_for_the_policy_and_shows_it_to_the_expert(adapters):
    seen, hidden = adapters("metaworld/reach-v3"), adapters("metaworld/reach-v3:hidden")
    a, b = seen.reset(4)["state"], hidden.reset(4)["state"]
    assert np.array_equal(a[:36], b[:36])
    assert (b[36:] == 0).all() and (np.abs(a[36:]) > 0).any()
    assert np.allclose(hidden.expert_observation[36:], a[36:])
    result = hidden.step(np.zeros(4))
    assert (result.observation["state"][36:] == 0).all()
    assert np.allclose(hidden.expert_observation[36:], a[36:])


@pytest.mark.parametrize(
    "env_id",
    ["metaworld/reach-v3", "metaworld/reach-v3:hidden", "metaworld/drawer-close-v3:hidden"],
)
def test_scripted_expert_succeeds_and_success_is_a_bool_that_ends_the_episode(adapters, env_id):
    adapter = adapters(env_id)
    expert = registry.expert(env_id)
    assert expert is not None
    adapter.reset(1)
    results = []
    while not results or not results[-1].done:
        results.append(adapter.step(expert(adapter.expert_observation)))
    assert results[-1].success is True and not results[-1].truncated
    assert not any(r.success for r in results[:-1])


@pytest.mark.parametrize("task", ["pick-place-v3", "door-open-v3", "stick-pull-v3"])
def test_the_gripper_touches_what_the_package_says_it_touches(adapters, task):
    adapter = adapters(f"metaworld/{task}")
    adapter.reset(3)
    own, expert, touched = adapter._env.env, registry.expert(f"metaworld/{task}"), 0
    for step in range(150):
        adapter.step(expert(adapter.expert_observation))
        for geom in range(own.model.ngeom) if step % 10 == 0 else ():
            ours = own.touching_object(geom)
            assert ours == type(own).touching_object(own, geom)
            touched += ours
    assert touched > 0


def test_environment_does_not_raise_beyond_its_own_limit_of_500_steps(adapters):
    from dataclasses import replace

    adapter = EnvAdapter(
        replace(adapters("metaworld/reach-v3").spec, max_steps=510, stop_at_success=False)
    )
    adapter.reset(0)
    results = [adapter.step(np.zeros(4)) for _ in range(510)]
    adapter.close()
    assert [r.truncated for r in results] == [False] * 509 + [True]


@pytest.mark.parametrize("task", ["pick-place-v3", "door-open-v3", "stick-push-v3"])
def test_experts_act_alike_in_a_shifted_world(adapters, task):
    adapter = adapters(f"metaworld/{task}")
    expert = registry.expert(adapter.spec.id)
    observation, _ = episode(adapter, 3, 60)
    translation = adapter.spec.symmetries[-1]
    rng = np.random.default_rng(0)
    shifted = observation[:, None].astype(float)
    translation.augment(
        shifted, np.zeros((len(observation), 1, 4)), np.arange(len(observation)), rng
    )
    assert (np.abs(shifted[:, 0, :2] - observation[:, :2]).max(axis=0) > 0.05).all()
    for before, after in zip(observation, shifted[:, 0]):
        assert np.allclose(expert(before), expert(after), atol=1e-3)


@pytest.mark.parametrize("task", metaworld.MIRRORED)
def test_mirrored_actions_from_a_mirrored_start_give_the_mirrored_episode(task):
    """The simulator itself is asked: nothing is known here of how it works inside but the order of
    its start vector.
    """
    env, expert = metaworld.MetaWorldEnv(task), metaworld.MetaWorldExpert(task)
    draw = env.env._get_state_rand_vec

    def play(act) -> tuple[np.ndarray, list[np.ndarray], bool]:
        observation, _ = env.reset(seed=5)
        seen, done = [observation], []
        for t in range(250):
            done.append(act(t, observation))
            observation, _, _, _, info = env.step(done[-1])
            seen.append(observation)
            if info["success"]:
                break
        return np.array(seen), done, info["success"]

    seen, done, success = play(lambda t, o: expert(o))
    mirror_start = np.array([-1.0, 1.0, 1.0] * 2)
    env.env._get_state_rand_vec = lambda: _times(draw(), mirror_start)
    actions = [metaworld.MIRROR.action(a) for a in done] + [np.zeros(4)] * 250
    image, _, reached = play(lambda t, o: actions[t])
    env.close()
    assert success and reached
    common = min(len(seen), len(image))
    positions = [0, 1, 2, 4, 5, 6]  # hand and first object, in metres
    assert (
        np.abs(metaworld.MIRROR.observation(image)[:common] - seen[:common])[:, positions].max()
        < 0.03
    )
    assert (
        np.abs(metaworld.MIRROR.observation(image)[0] - seen[0]).max() < 0.02
    )  # orientations and the goal too


def _times(vector: np.ndarray, sign: np.ndarray) -> np.ndarray:
    return vector * sign[: len(vector)]


def test_a_world_with_hidden_parts_declares_no_shift():
    assert registry.get("metaworld/reach-v3:hidden").symmetries == ()
    for task in ("reach-wall-v3", "bin-picking-v3"):
        assert metaworld.TRANSLATION not in registry.get(f"metaworld/{task}").symmetries


def test_experts_travel_to_workers():
    expert = pickle.loads(pickle.dumps(metaworld.MetaWorldExpert("reach-v3")))
    action = expert(np.zeros(39))
    assert action.shape == (4,) and action.dtype == np.float32 and np.abs(action).max() <= 1
