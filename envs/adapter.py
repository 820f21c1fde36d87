"""The one wrapper around an environment: owns seeding, time limit, success, clipping and errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.random import mtrand

from alltrades.data.fields import Observation
from alltrades.envs.spaces import integers, read, writer
from alltrades.envs.spec import EnvSpec
from alltrades.errors import UserError
from alltrades.system.streams import stream_seed


class EnvironmentFailure(Exception):
    """An episode that its environment could not finish. Survives pickling.

    Attributes:
        environment, seed, step: where; step counts the control steps before.
        cause: what was found, one line.
        kind: "raised", "hung" (no answer in time) or "diverged" (physics that cannot be believed).
    """

    def __init__(
        self, environment: str, seed: int, step: int, cause: str, kind: str = "raised"
    ) -> None:
        super().__init__(environment, seed, step, cause, kind)
        self.environment, self.seed, self.step = environment, seed, step
        self.cause, self.kind = cause, kind

    def __str__(self) -> str:
        return (
            f"environment '{self.environment}' failed at step {self.step} of the episode with seed "
            f"{self.seed}: {self.cause}"
        )


@dataclass(frozen=True)
class StepResult:
    """What one control step returns. `done`: the episode is over; `truncated`: by the time limit
    alone.

    metrics: the info values that the specification names.
    """

    observation: Observation
    reward: float
    success: bool
    done: bool
    truncated: bool
    metrics: dict[str, float] = field(default_factory=dict)


class EnvAdapter:
    """Steps the environment of a specification. Built at the first reset; reused from episode to
    episode.

    `reset(seed)` is all that an episode depends on besides its actions. Some simulators seed the
    global NumPy generator or draw from it: inside every call it is one of the episode's own,
    outside it is as it was.

    expert_observation: what the environment returned last, or what its info shows to experts alone.
    """

    def __init__(self, spec: EnvSpec) -> None:
        self.spec, self._interface = spec, spec.interface
        self._limit = np.inf if spec.max_steps is None else spec.max_steps
        self.low, self.high = (bound.astype(np.float32) for bound in spec.action.box)
        self.expert_observation: Any = None
        self.action = np.zeros(spec.action_dim, np.float32)  # the last one, as executed
        self._texts: dict[str, str] = {}  # of this episode
        self._env: Any = None
        self._write: Callable[[np.ndarray], Any] | None = None  # action -> the environment's own
        self._rounds = False
        self._seed, self._step = 0, 0
        self._bits = np.random.MT19937(0)  # behind np.random while the environment runs

    def reset(self, seed: int) -> Observation:
        """Start the episode of `seed`; returns the first observation."""
        self._seed, self._step = seed, 0
        self._bits = np.random.MT19937(stream_seed(seed, "np.random"))
        observation, info = self._guarded(lambda: self._build().reset(seed=seed))
        first = self._observe(observation, info)
        self._texts = {name: v for name, v in first.items() if isinstance(v, str)}
        return first

    def step(self, action: np.ndarray) -> StepResult:
        """Execute an action (action_dim,), clipped to the box, and rounded where the environment's
        are integers. Raises EnvironmentFailure when it is not finite.
        """
        self.action = np.clip(np.asarray(action, dtype=np.float32), self.low, self.high)
        if self._rounds:
            self.action = np.rint(self.action)
        if not np.isfinite(self.action).all():
            raise self._failure(
                f"it was given the action {self.action.tolist()}; expected finite numbers"
            )
        observation, reward, terminated, truncated, info = self._guarded(
            lambda: self._env.step(self._write(self.action) if self._write else self.action)
        )
        self._step += 1
        seen = self._observe(observation, info)
        self._check_texts(seen)
        success = _success(info, bool(terminated), float(reward))
        late = self._step >= self._limit or bool(truncated)
        over = bool(terminated) or (success and self.spec.stop_at_success)
        return StepResult(
            seen,
            float(reward),
            success,
            over or late,
            late and not over,
            self._metrics(info),
        )

    def trajectory_point(self) -> np.ndarray | None:
        """(k, 2) positions for plots, where the environment offers them."""
        point = getattr(self._env, "trajectory_point", None)
        return None if point is None else np.asarray(point(), dtype=np.float32)

    def close(self) -> None:
        if self._env is not None:
            self._env.close()
            self._env = None

    def _build(self) -> Any:
        if self._env is None:
            self._env = self.spec.build()
            space = getattr(self._env, "action_space", None)
            self._write, self._rounds = writer(space, self.spec.action_dim), integers(space)
        return self._env

    def _guarded(self, call: Callable[[], Any]) -> Any:
        outside = mtrand.get_bit_generator()
        mtrand.set_bit_generator(self._bits)
        try:
            return call()
        except UserError:
            raise
        except Exception as error:  # whatever a simulator raises is reported with its place
            raise self._failure(f"{type(error).__name__}: {error}") from error
        finally:
            mtrand.set_bit_generator(outside)

    def _failure(self, cause: str) -> EnvironmentFailure:
        return EnvironmentFailure(self.spec.id, self._seed, self._step, cause)

    def _metrics(self, info: dict[str, Any]) -> dict[str, float]:
        missing = [name for name in self.spec.metrics if name not in info]
        if missing:
            raise self._failure(
                f"its info has no '{missing[0]}'; the specification names it as a metric"
            )
        return {name: float(info[name]) for name in self.spec.metrics}

    def _observe(self, returned: Any, info: dict[str, Any]) -> Observation:
        try:
            out = read(returned, self._interface)
        except UserError as error:
            raise self._failure(str(error)) from error
        self.expert_observation = info.get("expert_observation", returned)
        return out

    def _check_texts(self, seen: Observation) -> None:
        for name, first in self._texts.items():
            if seen[name] != first:
                raise self._failure(
                    f"text '{name}' changed from {first[:40]!r} to {str(seen[name])[:40]!r}; "
                    "expected one string per episode"
                )


def _success(info: dict[str, Any], terminated: bool, reward: float) -> bool:
    for key in ("success", "is_success"):
        if key in info:
            return bool(info[key])
    return terminated and reward > 0
