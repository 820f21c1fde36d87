"""One episode, validated when it is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Episode:
    """T steps of one environment; observation t is what action t answered, the observation after
    the last action is dropped.

    Attributes:
        observations: fields of shape (T, ...), of which "state" (T, D) f32 is the policy's.
        actions: (T, A) f32 as executed, or None for an observation-only episode.
        rewards, successes: (T,) returned by the step that executed action t.
        environment, source: names. seed: what started the episode.
        success: flag at any step. first_success: steps until then (1-based), -1 for never.
        return_: sum of rewards.
        metrics: further numbers of the whole episode by name; evaluations report them, stores do
            not keep them.

    Raises ValueError for lengths that disagree and for values that are not finite.
    """

    observations: dict[str, np.ndarray]
    actions: np.ndarray | None
    rewards: np.ndarray
    successes: np.ndarray
    environment: str
    source: str
    seed: int
    success: bool
    first_success: int
    return_: float
    metrics: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        where = f"episode of '{self.environment}' (seed {self.seed})"
        if "state" not in self.observations:
            raise ValueError(
                f"{where}: fields {sorted(self.observations)}; expected one called 'state'"
            )
        arrays = {**self.observations, "rewards": self.rewards, "successes": self.successes}
        if self.actions is not None:
            arrays["actions"] = self.actions
        length = len(self.observation)
        if length == 0:
            raise ValueError(f"{where}: no steps; expected at least one")
        for name, value in arrays.items():
            if len(value) != length:
                raise ValueError(f"{where}: {name} has {len(value)} steps; expected {length}")
            if not np.isfinite(value).all():
                raise ValueError(
                    f"{where}: {name} is not finite at step "
                    f"{int(np.argwhere(~np.isfinite(value))[0][0])}"
                )
        for name, number in self.metrics.items():
            if not np.isfinite(number):
                raise ValueError(f"{where}: metric {name} is {number}; expected a finite number")
        if self.observation.ndim != 2 or (self.actions is not None and self.actions.ndim != 2):
            raise ValueError(f"{where}: observation and actions must be (steps, size)")

    @classmethod
    def from_arrays(
        cls,
        observations: Mapping[str, np.ndarray],
        actions: np.ndarray | None,
        environment: str,
        rewards: np.ndarray | None = None,
        successes: np.ndarray | None = None,
        source: str = "demo",
        seed: int = 0,
    ) -> Episode:
        """An episode of one's own recordings.

        Args:
            observations: {"state": (T, D)}; observation t is what action t answered.
            actions: (T, A), or None where none were recorded.
            rewards, successes: (T,) of the step that executed action t; default zeros.

        Raises ValueError for lengths that disagree and for values that are not finite.
        """
        fields = {k: np.asarray(v, dtype=np.float32) for k, v in observations.items()}
        length = len(next(iter(fields.values()), ()))
        reward = np.zeros(length) if rewards is None else np.asarray(rewards)
        success = np.zeros(length, bool) if successes is None else np.asarray(successes, dtype=bool)
        hit = bool(success.any())
        return cls(
            fields,
            None if actions is None else np.asarray(actions, dtype=np.float32),
            reward.astype(np.float32),
            success,
            environment,
            source,
            seed,
            hit,
            int(success.argmax()) + 1 if hit else -1,
            float(reward.sum(dtype=np.float64)),
        )

    @property
    def observation(self) -> np.ndarray:
        """(T, D) f32, what the policy sees."""
        return self.observations["state"]

    def __len__(self) -> int:
        return len(self.observation)
