"""Any Gymnasium id: its spaces, its time limit, its success, its package."""

from __future__ import annotations

import pickle

import gymnasium
import numpy as np
import pytest

from alltrades.data.fields import Field
from alltrades.envs import registry
from alltrades.envs.adapter import EnvAdapter
from alltrades.envs.suites.gymnasium_env import gymnasium_spec
from alltrades.errors import UserError
from tests.envs.toys import Countdown, Keyed, Unbounded


@pytest.fixture
def declared():
    """Toys in Gymnasium's registry, for one test."""
    before = dict(gymnasium.registry)
    gymnasium.register("alltrades/Keyed-v0", Keyed, max_episode_steps=7)
    gymnasium.register("alltrades/Unbounded-v0", Unbounded)
    gymnasium.register("alltrades/Goal-v0", Countdown, max_episode_steps=7)
    gymnasium.register("alltrades/Threshold-v0", Keyed, max_episode_steps=4, reward_threshold=2.5)
    yield
    gymnasium.registry.clear()
    gymnasium.registry.update(before)


def test_specification_repeats_what_gymnasium_declares():
    spec = registry.get("gym:Pendulum-v1")
    assert (spec.id, spec.max_steps, spec.control_hz) == ("gym:Pendulum-v1", 200, 30.0)
    assert spec.observation == {
        "state": Field.state(3, low=(-1.0, -1.0, -8.0), high=(1.0, 1.0, 8.0))
    }
    assert (spec.action.low, spec.action.high) == ((-2.0,), (2.0,))
    assert registry.get("gym:Pendulum-v1") is spec
    assert pickle.loads(pickle.dumps(spec)) is not None


def test_steps_equal_those_of_gymnasium_itself():
    theirs = gymnasium.make("Pendulum-v1")
    ours = EnvAdapter(gymnasium_spec("gym:Pendulum-v1"))
    expected, _ = theirs.reset(seed=2**40)
    assert np.array_equal(ours.reset(2**40)["state"], expected)
    for action in np.linspace(-2, 2, 20, dtype=np.float32)[:, None]:
        observation, reward, *_ = theirs.step(action)
        result = ours.step(action)
        assert np.array_equal(result.observation["state"], observation)
        assert result.reward == pytest.approx(float(reward))


def test_time_limit_is_the_declared_one_and_no_wrapper_of_gymnasium_is_left():
    adapter = EnvAdapter(gymnasium_spec("gym:Pendulum-v1"))
    adapter.reset(0)
    results = [adapter.step(np.zeros(1)) for _ in range(200)]
    assert [r.truncated for r in results] == [False] * 199 + [True]
    assert not isinstance(adapter._env.env, gymnasium.Wrapper)


def test_dict_observations_are_fields_by_key_and_actions_take_their_shape(declared):
    spec = gymnasium_spec("gym:alltrades/Keyed-v0")
    assert spec.observation == {
        "goal": Field.state(3, low=(-1.0,) * 3, high=(1.0,) * 3),
        "state": Field.state(2),
    }
    assert (spec.action.low, spec.action.high, spec.max_steps) == ((-2.0,) * 4, (3.0,) * 4, 7)
    adapter = EnvAdapter(spec)
    observation = adapter.reset(1)
    assert observation["goal"].tolist() == [0.5] * 3 and observation["state"][1] == 0.0
    assert adapter.step(np.array([9.0, 0, 0, 0])).reward == 3.0


def test_success_flag_of_the_environment_is_used(declared):
    adapter = EnvAdapter(gymnasium_spec("gym:alltrades/Goal-v0"))
    adapter.reset(0)
    assert [adapter.step(np.zeros(1)).success for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize("name", ["alltrades/Keyed-v0", "alltrades/Threshold-v0"])
def test_an_id_whose_info_says_nothing_has_no_success_whatever_it_earns(declared, name):
    adapter = EnvAdapter(gymnasium_spec(f"gym:{name}"))
    adapter.reset(0)
    results = [adapter.step(np.array([3.0, 0, 0, 0])) for _ in range(4)]
    assert [(r.success, r.reward) for r in results] == [(None, 3.0)] * 4


@pytest.mark.parametrize(
    "name, message",
    [
        ("gym:Pendulm-v1", "did you mean 'Pendulum-v1'"),
        ("gym:CartPole-v1", r"integer actions \(Discrete\(2\)\).*action=ActionSpec"),
        ("gym:Blackjack-v1", "observation is Tuple; expected Box"),
        ("gym:alltrades/Unbounded-v0", "unbounded actions.*action=ActionSpec"),
        ("gym:no_such_package:X-v0", "no_such_package"),
    ],
)
def test_what_cannot_be_used_is_explained(declared, name, message):
    with pytest.raises(UserError, match=message):
        registry.get(name)


def test_same_seed_gives_an_equal_episode_in_a_used_instance():
    adapter = EnvAdapter(gymnasium_spec("gym:Reacher-v5"))

    def episode(seed: int) -> np.ndarray:
        rng = np.random.default_rng(0)
        steps = (adapter.step(rng.uniform(-1, 1, 2)).observation for _ in range(20))
        return np.array([o["state"] for o in (adapter.reset(seed), *steps)])

    first = episode(3)
    episode(4)
    assert np.array_equal(episode(3), first)
