"""Toy environments at module level, where a spawned worker can import them."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium
import numpy as np

from alltrades.data.actions import ActionSpec
from alltrades.data.fields import Field
from alltrades.envs.spec import EnvSpec


class Countdown(gymnasium.Env):
    """Succeeds in one known step, and goes on; observation = (seed's start, steps taken); reward =
    action[0].
    """

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, succeed_at: int = 3, fail_at: int = -1) -> None:
        self.succeed_at, self.fail_at = succeed_at, fail_at

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.start, self.steps = float(self.np_random.uniform()), 0
        return np.array([self.start, 0.0]), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.steps += 1
        if self.steps == self.fail_at:
            raise RuntimeError("the gripper fell off")
        return (
            np.array([self.start, self.steps]),
            float(action[0]),
            False,
            False,
            {"success": self.steps == self.succeed_at},
        )


class GlobalDice(Countdown):
    """Seeds and draws from NumPy's global generator, as some simulators do."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return np.random.uniform(size=2), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        if self.steps == 1:
            np.random.seed(7)
        _, reward, terminated, truncated, info = super().step(action)
        return np.random.uniform(size=2), reward, terminated, truncated, info


class Sparse(Countdown):
    """Reports its success by what `how` says: "is_success", or termination with a reward of +1 or
    -1.
    """

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        observation, _, _, _, info = super().step(action)
        now = info["success"]
        if self.how == "is_success":
            return observation, 0.0, False, False, {"is_success": np.float64(now)}
        return observation, float(self.how) if now else 0.0, now, False, {}


class Teleport(Countdown):
    """Ends by its own truncation, in step 2."""

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        observation, reward, _, _, info = super().step(action)
        return observation, reward, False, self.steps == 2, info


class Broken(Countdown):
    """Its observation turns to NaN in step 2."""

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        observation, *rest = super().step(action)
        return (observation * np.nan if self.steps == 2 else observation), *rest  # type: ignore[return-value]


class Keyed(Countdown):
    """Dict observation, 2x2 actions, and no success flag: for Gymnasium's registry."""

    observation_space = gymnasium.spaces.Dict(
        {
            "state": gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32),
            "goal": gymnasium.spaces.Box(-1.0, 1.0, (1, 3), np.float32),
        }
    )
    action_space = gymnasium.spaces.Box(-2.0, 3.0, (2, 2), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict]:  # type: ignore[override]
        state, info = super().reset(seed=seed)
        return {"state": state, "goal": np.full((1, 3), 0.5)}, info

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict]:  # type: ignore[override]
        assert action.shape == (2, 2)
        state, reward, *_ = super().step(action.ravel())
        return {"state": state, "goal": np.full((1, 3), 0.5)}, reward, False, False, {}


class Unbounded(Countdown):
    """Actions without bounds."""

    action_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)


def toy_spec(make: Any = Countdown, env_id: str = "toy/countdown", **changes: Any) -> EnvSpec:
    """Specification of a toy; `make` may be a class or a partial of one."""
    facts: dict[str, Any] = {"max_steps": 10, "stop_at_success": True} | changes
    return EnvSpec(env_id, make, {"state": Field.state(2)}, ActionSpec((-1.0,), (1.0,)), **facts)


def failing(step: int) -> Any:
    """Countdown that raises in a step."""
    return partial(Countdown, fail_at=step)
