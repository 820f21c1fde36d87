"""What environments may return, and what they may do to what they are given."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest

from alltrades.data.actions import ActionSpec
from alltrades.envs.adapter import EnvAdapter, EnvironmentFailure
from alltrades.errors import UserError
from tests.envs.toys import Countdown, toy_spec

SEEN = np.zeros(2, np.float32)


class Says(Countdown):
    """Returns what it is told."""

    def __init__(self, reset: Any = (SEEN, {}), step: Any = (SEEN, 0.0, False, False, {})) -> None:
        super().__init__()
        self.says = reset, step

    def reset(self, **_: Any) -> Any:
        return self.says[0]

    def step(self, action: np.ndarray) -> Any:
        return self.says[1]


def stepped(**says: Any) -> Any:
    adapter = EnvAdapter(toy_spec(lambda: Says(**says)))
    adapter.reset(7)
    return adapter.step(np.zeros(1))


def values(**changes: Any) -> tuple[Any, ...]:
    names = ("observation", "reward", "terminated", "truncated", "info")
    right = dict(zip(names, (SEEN, 0.5, False, False, {})))
    return tuple({**right, **changes}.values())


@pytest.mark.parametrize(
    "returned, message",
    [
        ((SEEN, 0.0, False, {}), r"step returned a tuple of 4 \(as the old Gym did\); expected"),
        (None, "step returned None; expected five: observation, reward, terminated"),
        ([*values()], "step returned a list; expected five"),
        (values(info=None), "an info that is None; expected a dict"),
        (values(info=[]), "an info that is a list; expected a dict"),
        (values(reward=None), "a reward that is None; expected a number"),
        (values(reward="1.0"), "a reward that is '1.0'; expected a number"),
        (values(reward=np.zeros(2)), r"a reward that is an array of shape \(2,\) of float64"),
        (values(reward=1 + 2j), "a reward that is a complex"),
        (values(terminated=None), "a terminated that is None; expected True or False"),
        (values(terminated="no"), "a terminated that is 'no'; expected True or False"),
        (values(truncated=np.array([True, False])), r"truncated that is an array of shape \(2,\)"),
        (values(truncated=0.5), "a truncated that is 0.5; expected True or False"),
        (values(observation=np.zeros(3)), r"shape \(3,\); expected \(2,\)"),
    ],
)  # fmt: skip
def test_what_step_may_not_return_is_named_with_environment_seed_and_step(returned, message):
    with pytest.raises(UserError, match=message) as error:
        stepped(step=returned)
    assert str(error.value).startswith("environment 'toy/countdown', episode with seed 7, step 0: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "returned, message",
    [
        (SEEN, r"reset returned an array of shape \(2,\) of float32; expected an observation and"),
        ((SEEN,), "reset returned a tuple of 1"),
        ((SEEN, None), "reset returned an info that is None; expected a dict"),
        (None, "reset returned None"),
    ],
)
def test_reset_without_info_is_named(returned, message):
    with pytest.raises(UserError, match=f"'toy/countdown', episode with seed 7, step 0: {message}"):
        stepped(reset=returned)


def test_numbers_and_flags_of_every_type_are_taken():
    result = stepped(
        step=values(reward=np.array([0.25]), terminated=np.bool_(True), truncated=np.array(0))
    )
    assert (result.reward, result.done, result.truncated) == (0.25, True, False)
    assert type(result.reward) is float and type(result.done) is bool
    assert stepped(step=values(reward=1, terminated=1)).reward == 1.0


def test_a_metric_that_is_no_number_is_named():
    adapter = EnvAdapter(
        toy_spec(lambda: Says(step=values(info={"score": "high"})), metrics=("score",))
    )
    adapter.reset(0)
    with pytest.raises(UserError, match="step returned a score that is 'high'; expected a number"):
        adapter.step(np.zeros(1))


class Square(Countdown):
    """Actions of 2 x 2 numbers."""

    action_space = gymnasium.spaces.Box(-1.0, 1.0, (2, 2), np.float32)

    def step(self, action: np.ndarray) -> Any:
        return super().step(action.ravel())


SQUARE = replace(toy_spec(Square), action=ActionSpec([-1] * 4, [1] * 4))


def test_an_action_is_never_broadcast():
    adapter = EnvAdapter(SQUARE)
    adapter.reset(0)
    for wrong in (np.zeros(2), np.zeros((1, 2)), np.float32(0.5), np.zeros((4, 4))):
        with pytest.raises(
            UserError, match="it was given an action of shape .*; expected \\(4,\\)"
        ):
            adapter.step(wrong)


def test_an_action_may_have_the_environments_own_shape():
    adapter = EnvAdapter(SQUARE)
    adapter.reset(0)
    adapter.step(np.full((2, 2), 0.5))
    assert adapter.action.tolist() == [0.5] * 4


class Meddling(Countdown):
    """Clips the action that it is given in place, and shows it."""

    def step(self, action: np.ndarray) -> Any:
        action *= 0.5
        return np.array([action[0], 0.0]), 0.0, False, False, {}


def test_an_action_that_the_environment_changes_in_place_is_recorded_as_it_was_given():
    adapter = EnvAdapter(toy_spec(Meddling))
    adapter.reset(0)
    given = np.array([0.5], np.float32)
    assert adapter.step(given).observation["state"][0] == 0.25
    assert adapter.action.tolist() == [0.5] and given.tolist() == [0.5]


class Shared(Countdown):
    """Returns one array again and again, changed in between."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.seen = np.zeros(2, np.float32)
        return self.seen, {}

    def step(self, action: np.ndarray) -> Any:
        self.seen += 1
        return self.seen, 0.0, False, False, {}


def test_observations_that_share_memory_are_kept_as_they_were():
    adapter = EnvAdapter(toy_spec(Shared))
    seen = [adapter.reset(0), *(adapter.step(np.zeros(1)).observation for _ in range(3))]
    assert [o["state"][0] for o in seen] == [0, 1, 2, 3]


def test_a_reward_that_is_not_finite_is_a_failure_that_diverged():
    with pytest.raises(EnvironmentFailure, match="its reward is nan") as caught:
        stepped(step=values(reward=float("nan")))
    assert caught.value.kind == "diverged"
