"""Any Gymnasium environment by its id: "gym:Pendulum-v1", or "gym:module:Name-v0" for one that a
module registers.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from alltrades.data.interface import ActionSpec
from alltrades.envs.spec import EnvSpec
from alltrades.errors import UserError, nearest

PREFIX = "gym:"
MAX_STEPS = 1000  # where the id declares no time limit


class FlatEnv(gymnasium.Env):
    """A Gymnasium environment with flat observations and flat actions, without Gymnasium's own time
    limit and checks.

    Box observations are raveled, Dict observations of Boxes concatenated by sorted key. Success:
    the environment's info ("success" or "is_success") where it has one; else, where the id declares
    a `reward_threshold`, an episode that ends with a return of at least that; else the adapter's
    rule (terminated with a positive reward).
    """

    def __init__(self, gym_id: str) -> None:
        declared = copy.deepcopy(_declared(gym_id))
        self._limit = declared.max_episode_steps or MAX_STEPS
        self._threshold = declared.reward_threshold
        declared.max_episode_steps, declared.order_enforce = (
            None,
            False,
        )  # the adapter owns both; wrappers cost time
        try:
            self.env = gymnasium.make(declared, disable_env_checker=True)
        except gymnasium.error.DependencyNotInstalled as error:
            raise UserError(
                f"environment '{PREFIX}{gym_id}' cannot be built: {_first_line(error)}"
            ) from error
        self._space = self.env.observation_space
        self._shape = self.env.action_space.shape
        self._return, self._step = 0.0, 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        self._return, self._step = 0.0, 0
        observation, info = self.env.reset(seed=seed, options=options)
        return self._flat(observation), info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        shaped = np.asarray(action, self.env.action_space.dtype).reshape(self._shape)
        observation, reward, terminated, truncated, info = self.env.step(shaped)
        self._return += float(reward)
        self._step += 1
        if self._threshold is not None and not {"success", "is_success"} & info.keys():
            over = bool(terminated) or bool(truncated) or self._step >= self._limit
            info = {**info, "success": over and self._return >= self._threshold}
        return self._flat(observation), float(reward), bool(terminated), bool(truncated), info

    def close(self) -> None:
        self.env.close()

    def _flat(self, observation: Any) -> np.ndarray:
        return np.asarray(spaces.flatten(self._space, observation), dtype=np.float32)


def gymnasium_spec(env_id: str) -> EnvSpec:
    """Specification of "gym:ID", measured on an instance built for it.

    Raises UserError for ids that Gymnasium does not know, for packages that are missing, and for
    spaces other than Box or Dict of Box observations and bounded Box actions.
    """
    gym_id = env_id.removeprefix(PREFIX)
    declared = _declared(gym_id)
    env = FlatEnv(gym_id)
    try:
        observation_space, action_space = env.env.observation_space, env.env.action_space
        rate = env.env.metadata.get("render_fps") or 10.0
    finally:
        env.close()
    if not _boxes(observation_space):
        raise UserError(
            f"environment '{env_id}' has observations {type(observation_space).__name__}; expected "
            "Box, or Dict of Box; wrap it and register the wrapper"
        )
    if not isinstance(action_space, spaces.Box):
        raise UserError(
            f"environment '{env_id}' has actions {type(action_space).__name__}; expected a Box; a "
            "diffusion policy acts in continuous spaces"
        )
    low, high = action_space.low.ravel().astype(float), action_space.high.ravel().astype(float)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise UserError(
            f"environment '{env_id}' has unbounded actions; expected finite bounds; wrap it and "
            "register the wrapper"
        )
    return EnvSpec(
        env_id,
        partial(FlatEnv, gym_id),
        int(spaces.flatdim(observation_space)),
        ActionSpec(low.tolist(), high.tolist()),
        declared.max_episode_steps or MAX_STEPS,
        control_hz=float(rate),
    )


def _declared(gym_id: str) -> Any:
    """Gymnasium's own entry for an id, its module imported where the id names one."""
    try:
        return gymnasium.spec(gym_id)
    except gymnasium.error.Error as error:  # unknown name, version or namespace
        near = nearest(gym_id, sorted(gymnasium.registry))
        raise UserError(
            f"Gymnasium knows no environment '{gym_id}'{near}; expected '{PREFIX}' and a "
            "registered id; 'gym:package:Name-v0' imports the package first"
        ) from error
    except ModuleNotFoundError as error:
        raise UserError(
            f"environment '{PREFIX}{gym_id}': no module '{error.name}'; expected an installed "
            "package; install it"
        ) from error


def _boxes(space: Any) -> bool:
    if isinstance(space, spaces.Dict):
        return all(_boxes(s) for s in space.spaces.values())
    return isinstance(space, spaces.Box)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
