"""Any Gymnasium id with Box (or Dict of Box) observations and Box actions, as "gym:ID"."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium
import numpy as np

from alltrades.data.errors import UserError
from alltrades.envs.spec import EnvSpec

PREFIX = "gym:"
DEFAULT_STEPS = 1000  # where the registration has no time limit


class FlatObservations(gymnasium.Wrapper):
    """Concatenates the entries of a Dict observation, in the order of their keys."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        observation, info = self.env.reset(seed=None if seed is None else seed % 2**32, options=options)
        return self._flat(observation), info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action.astype(self.action_space.dtype))
        return self._flat(observation), float(reward), terminated, truncated, info

    def _flat(self, observation: Any) -> np.ndarray:
        return gymnasium.spaces.flatten(self.env.observation_space, observation).astype(np.float32)


def make(env_id: str) -> gymnasium.Env:
    """Build a Gymnasium environment with flat observations."""
    return FlatObservations(gymnasium.make(env_id, disable_env_checker=True))


def gymnasium_spec(name: str) -> EnvSpec:
    """Specification of "gym:ID"; raises UserError for ids that are unknown, not installed, or of other spaces."""
    env_id = name.removeprefix(PREFIX)
    try:
        env = gymnasium.make(env_id, disable_env_checker=True)
    except (gymnasium.error.Error, ImportError) as error:
        raise UserError(f"Gymnasium cannot make '{env_id}' ({error}); expected a registered id whose dependencies are installed") from error
    try:
        action, observation = env.action_space, env.observation_space
        boxes = observation.spaces.values() if isinstance(observation, gymnasium.spaces.Dict) else [observation]
        if not isinstance(action, gymnasium.spaces.Box) or not all(isinstance(b, gymnasium.spaces.Box) for b in boxes):
            raise UserError(f"'{env_id}' has actions {action} and observations {observation}; expected Box actions and Box (or Dict of "
                            "Box) observations")
        low, high = (np.asarray(x, dtype=float).ravel() for x in (action.low, action.high))
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise UserError(f"'{env_id}' has unbounded actions; expected finite bounds; wrap it and register it yourself")
        limit = env.spec.max_episode_steps if env.spec is not None else None
        rate = float(env.metadata.get("render_fps") or 20)
        return EnvSpec(name, partial(make, env_id), gymnasium.spaces.flatdim(observation), low.size, tuple(low.tolist()),
                       tuple(high.tolist()), limit or DEFAULT_STEPS, control_hz=rate)
    finally:
        env.close()
