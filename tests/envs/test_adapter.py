"""The adapter owns seeding, the time limit, success, clipping and failures."""

from __future__ import annotations

import pickle
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from alltrades.data.fields import Field
from alltrades.envs.adapter import EnvAdapter, EnvironmentFailure
from alltrades.envs.spec import EnvSpec
from alltrades.errors import UserError
from tests.envs import toys
from tests.envs.toys import Broken, Countdown, GlobalDice, Sparse, Teleport, failing, toy_spec

ZERO = np.zeros(1, np.float32)


def run(adapter: EnvAdapter, seed: int, steps: int) -> list:
    adapter.reset(seed)
    results = []
    for _ in range(steps):
        results.append(adapter.step(ZERO))
        if results[-1].done:
            break
    return results


def test_success_is_flagged_in_the_step_that_reached_it_and_ends_the_episode():
    results = run(EnvAdapter(toy_spec(partial(Countdown, 3))), 0, 10)
    assert [r.success for r in results] == [False, False, True]
    assert results[-1].done and not results[-1].truncated


def test_episode_goes_on_after_success_where_the_specification_says_so():
    results = run(EnvAdapter(toy_spec(partial(Countdown, 3), stop_at_success=False)), 0, 20)
    assert [r.success for r in results] == [False, False, True] + [False] * 7
    assert results[-1].done and results[-1].truncated


def test_time_limit_truncates_at_exactly_max_steps():
    results = run(EnvAdapter(toy_spec(partial(Countdown, 99), max_steps=4)), 0, 10)
    assert len(results) == 4
    assert [(r.done, r.truncated) for r in results] == [(False, False)] * 3 + [(True, True)]


def test_success_in_the_last_step_is_no_truncation():
    last = run(EnvAdapter(toy_spec(partial(Countdown, 4), max_steps=4)), 0, 10)[-1]
    assert last.success and last.done and not last.truncated


def test_time_limit_starts_anew_with_each_episode():
    adapter = EnvAdapter(toy_spec(partial(Countdown, 99), max_steps=4))
    assert [len(run(adapter, seed, 10)) for seed in (1, 2, 3)] == [4, 4, 4]


def test_truncation_by_the_environment_ends_the_episode_too():
    results = run(EnvAdapter(toy_spec(Teleport)), 0, 10)
    assert len(results) == 2 and results[-1].truncated


def test_success_is_read_from_is_success_as_a_true_boolean():
    results = run(EnvAdapter(toy_spec(partial(Sparse, "is_success"))), 0, 5)
    assert [r.success for r in results] == [False, False, True]
    assert type(results[-1].success) is bool


@pytest.mark.parametrize("reward", ["1", "-1"])
def test_an_episode_that_ends_with_a_reward_says_nothing_of_success(reward):
    results = run(EnvAdapter(toy_spec(partial(Sparse, reward))), 0, 5)
    assert [r.success for r in results] == [None] * 3 and results[-1].done


def test_actions_are_clipped_to_the_box():
    adapter = EnvAdapter(toy_spec())
    adapter.reset(0)
    assert adapter.step(np.array([5.0])).reward == 1.0
    assert adapter.action.tolist() == [1.0]
    assert adapter.step(np.array([-5.0])).reward == -1.0


def test_raising_environment_names_itself_the_seed_and_the_step_and_survives_pickling():
    adapter = EnvAdapter(toy_spec(failing(3), env_id="toy/failing", stop_at_success=False))
    with pytest.raises(EnvironmentFailure) as caught:
        run(adapter, 42, 10)
    failure = pickle.loads(pickle.dumps(caught.value))
    assert (failure.environment, failure.seed, failure.step) == ("toy/failing", 42, 2)
    line = next(
        n
        for n, text in enumerate(Path(toys.__file__).read_text().splitlines(), 1)
        if "the gripper fell off" in text
    )
    assert failure.cause == f"RuntimeError: the gripper fell off (envs/toys.py:{line})"
    assert failure.kind == "raised"
    assert str(failure) == str(caught.value)
    assert (
        "'toy/failing'" in str(failure) and "step 2" in str(failure) and "seed 42" in str(failure)
    )


def test_adapter_is_usable_after_a_failure():
    adapter = EnvAdapter(toy_spec(partial(Countdown, 9, fail_at=3)))
    with pytest.raises(EnvironmentFailure):
        run(adapter, 1, 10)
    assert len(run(adapter, 1, 2)) == 2


def test_observation_of_another_size_is_refused():
    wider = replace(toy_spec(), observation={"state": Field.state(5)})
    with pytest.raises(UserError, match=r"'state' of .* shape \(2,\); expected \(5,\)"):
        EnvAdapter(wider).reset(0)


def test_observation_and_action_that_are_not_finite_are_refused():
    with pytest.raises(EnvironmentFailure, match="not finite at entry 0") as caught:
        run(EnvAdapter(toy_spec(Broken)), 0, 5)
    assert caught.value.kind == "diverged"
    adapter = EnvAdapter(toy_spec())
    adapter.reset(0)
    with pytest.raises(EnvironmentFailure, match="expected finite numbers"):
        adapter.step(np.array([np.nan]))


def test_environment_that_uses_the_global_generator_depends_on_the_episode_seed_alone():
    adapter = EnvAdapter(toy_spec(GlobalDice))

    def episode(seed: int) -> np.ndarray:
        seen = [adapter.reset(seed), *(adapter.step(ZERO).observation for _ in range(3))]
        return np.array([o["state"] for o in seen])

    np.random.seed(0)
    first = episode(5)
    np.random.seed(123)
    episode(6)
    assert np.array_equal(episode(5), first)
    assert not np.array_equal(episode(6), first)


def test_global_numpy_generator_is_left_as_it_was_even_by_a_failure():
    np.random.seed(11)
    expected = np.random.uniform(size=3)
    np.random.seed(11)
    run(EnvAdapter(toy_spec(GlobalDice)), 0, 5)
    drawn = [np.random.uniform()]
    with pytest.raises(EnvironmentFailure):
        run(EnvAdapter(toy_spec(failing(1))), 0, 5)
    assert np.array_equal(expected, [*drawn, np.random.uniform(), np.random.uniform()])


def test_environment_is_built_once_at_the_first_reset():
    built = []

    def make() -> Countdown:
        built.append(1)
        return Countdown()

    adapter = EnvAdapter(toy_spec(make))
    assert not built
    adapter.reset(0)
    adapter.reset(1)
    assert len(built) == 1
    adapter.close()
    adapter.close()


def test_observations_are_float32_and_experts_see_them_where_nothing_else_is_offered():
    adapter = EnvAdapter(toy_spec())
    observation = adapter.reset(3)["state"]
    assert observation.dtype == np.float32 and observation.shape == (2,)
    assert np.allclose(adapter.expert_observation, observation)
    assert adapter.trajectory_point() is None


def test_a_metric_that_the_environment_does_not_give_is_named():
    adapter = EnvAdapter(toy_spec(metrics=("psnr",)))
    adapter.reset(0)
    with pytest.raises(UserError, match="its info has no 'psnr'"):
        adapter.step(ZERO)


def test_an_environment_that_only_recordings_know_cannot_be_stepped():
    spec = EnvSpec.recorded(toy_spec().interface)
    assert not spec.simulated and toy_spec().simulated
    with pytest.raises(UserError, match="'toy/countdown' is known from recordings alone"):
        EnvAdapter(spec).reset(0)
