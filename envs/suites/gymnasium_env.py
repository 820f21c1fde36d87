"""Any Gymnasium environment by its id: "gym:Pendulum-v1", or "gym:module:Name-v0" for one that a
module registers.
"""

from __future__ import annotations

import copy
import importlib
from typing import Any

import gymnasium

from alltrades.envs import registry
from alltrades.envs.derived import PICTURE, Draft
from alltrades.envs.spec import EnvSpec
from alltrades.errors import UserError, nearest

PREFIX = "gym:"
MAX_STEPS = 1000  # where the id declares no time limit


class GymnasiumEnv(gymnasium.Env):
    """A Gymnasium environment by its id, without Gymnasium's own time limit and checks.

    Success is what its info says under "success" or "is_success"; an environment that says nothing
    has none and is judged by its return.
    """

    def __init__(self, gym_id: str) -> None:
        self.spec = copy.deepcopy(_declared(gym_id))
        self.limit_assumed = self.spec.max_episode_steps is None
        self.spec.max_episode_steps = self.spec.max_episode_steps or MAX_STEPS
        declared = copy.deepcopy(self.spec)
        # the adapter owns both; wrappers cost time
        declared.max_episode_steps, declared.order_enforce = None, False
        try:
            self.env = gymnasium.make(declared, disable_env_checker=True)
        except gymnasium.error.DependencyNotInstalled as error:
            raise UserError(
                f"environment '{PREFIX}{gym_id}' cannot be built: {_first_line(error)}"
            ) from error
        self.observation_space, self.action_space = (
            self.env.observation_space,
            self.env.action_space,
        )
        self.metadata = self.env.metadata

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, float(reward), bool(terminated), bool(truncated), info

    def render(self) -> Any:
        """The environment's own picture, (H, W, 3) uint8."""
        inner: Any = self.env.unwrapped
        if inner.render_mode is None:
            inner.render_mode = PICTURE  # asked for after it was built
        return inner.render()

    def close(self) -> None:
        self.env.close()


def gymnasium_spec(env_id: str) -> EnvSpec:
    """Specification of "gym:ID", read from an instance built for it.

    Raises UserError for ids that Gymnasium does not know, for packages that are missing, and what
    `Draft.spec` raises.
    """
    gym_id = env_id.removeprefix(PREFIX)
    return Draft(env_id, _Made(gym_id)).spec()


class _Made:
    """Builds the environment; in a process that does not know its id yet, behind the plugins of the
    process that sent it, one of which may register it.
    """

    def __init__(self, gym_id: str, plugins: tuple[str, ...] = ()) -> None:
        self.gym_id = gym_id
        self._plugins = () if self._known() else plugins

    def __call__(self) -> GymnasiumEnv:
        if not self._known():
            registry.load_plugins(self._plugins)
        return GymnasiumEnv(self.gym_id)

    def __reduce__(self) -> Any:
        """Plugins are said when it is sent: a specification does not depend on them."""
        return _Made, (self.gym_id, tuple(registry.loaded_plugins()))

    def _known(self) -> bool:
        return self.gym_id.rpartition(":")[2] in gymnasium.registry


def _declared(gym_id: str) -> Any:
    """Gymnasium's own entry for an id, its module imported where the id names one."""
    module, _, name = gym_id.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise UserError(
                f"environment '{PREFIX}{gym_id}': no module '{error.name}'; expected an installed "
                "package or one on PYTHONPATH; install it"
            ) from error
    try:
        return gymnasium.spec(name)
    except gymnasium.error.Error as error:  # unknown name, version or namespace
        near = nearest(name, sorted(gymnasium.registry))
        raise UserError(
            f"Gymnasium knows no environment '{name}'{near}; expected '{PREFIX}' and a "
            "registered id; 'gym:package:Name-v0' imports the package first"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
