"""One episode, validated when it is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from alltrades.data.fields import Field, Observation, field_name, values_of
from alltrades.data.finite import fault, finite

UNKNOWN = -2  # `first_success` of an episode that nothing says success of, where it is a column


@dataclass(frozen=True)
class Episode:
    """T steps of one environment; observation t is what action t answered, the observation after
    the last action is dropped.

    Attributes:
        observations: by field, (T, D) f32 of a state, (T, H, W, C) of an image, or one string. See
            `values_of` for what becomes what.
        actions: (T, A) f32 as executed, or None for an observation-only episode.
        rewards, successes: (T,) returned by the step that executed action t.
        environment, source: names. seed: what started the episode.
        success: flag at any step. first_success: steps until then (1-based), -1 for never. Both are
            None where nothing says success; then `successes` are False.
        return_: sum of rewards.
        metrics: further numbers of the whole episode by name; evaluations report them, stores do
            not keep them.
        points: (T, k, 2) positions for plots, or None; stores do not keep them.
        timestamps: (T,) f64 seconds from the episode's start at which its observations were taken,
            as measured, or None where nothing measured them.
        interventions: (T,) bool, steps at which a person acted in a policy's place; None where
            nobody could, or nothing says so.

    Raises ValueError for lengths that disagree and for values that are not finite.
    """

    observations: Observation
    actions: np.ndarray | None
    rewards: np.ndarray
    successes: np.ndarray
    environment: str
    source: str
    seed: int
    success: bool | None
    first_success: int | None
    return_: float
    metrics: dict[str, float] = field(default_factory=dict)
    points: np.ndarray | None = None
    timestamps: np.ndarray | None = None
    interventions: np.ndarray | None = None

    def __post_init__(self) -> None:
        where = f"episode of '{self.environment}' (seed {self.seed})"
        arrays: dict[str, Any] = {
            k: v for k, v in self.observations.items() if not isinstance(v, str)
        }
        arrays |= {"rewards": self.rewards, "successes": self.successes}
        for name in ("actions", "points", "timestamps", "interventions"):
            value = getattr(self, name)
            if value is not None:
                arrays[name] = value
        length = len(next(iter(arrays.values())))
        if not self.observations:
            raise ValueError(f"{where}: no observations; expected at least one field")
        if length == 0:
            raise ValueError(f"{where}: no steps; expected at least one")
        for name, value in arrays.items():
            if len(value) != length:
                raise ValueError(f"{where}: {name} has {len(value)} steps; expected {length}")
            if value.dtype.kind == "f" and not (good := finite(value)).all():
                first = tuple(np.argwhere(~good)[0])
                raise ValueError(f"{where}: {name} {fault(value[first])} at step {int(first[0])}")
        for name, number in self.metrics.items():
            if not np.isfinite(number):
                raise ValueError(f"{where}: metric {name} is {number}; expected a finite number")
        for name, values in self.observations.items():
            if not isinstance(values, str) and values.ndim not in (2, 4):
                raise ValueError(
                    f"{where}: {name} has shape {values.shape}; expected (steps, size), or (steps, "
                    "height, width, channels) of an image"
                )
        if self.actions is not None and self.actions.ndim != 2:
            raise ValueError(f"{where}: actions must be (steps, size)")
        if self.timestamps is not None and self.timestamps.ndim != 1:
            raise ValueError(f"{where}: timestamps must be (steps,)")
        if self.interventions is not None and self.interventions.dtype != bool:
            raise ValueError(
                f"{where}: interventions are {self.interventions.dtype}; expected True or False "
                "for every step"
            )

    @classmethod
    def from_arrays(
        cls,
        observations: Mapping[str, Any],
        actions: Any,
        environment: str,
        rewards: Any = None,
        successes: Any = None,
        source: str = "demo",
        seed: int = 0,
        timestamps: Any = None,
        interventions: Any = None,
    ) -> Episode:
        """An episode from arrays as recordings have them; what success and return say of the whole
        is computed.

        Args:
            observations: by field: (T, D) numbers, (T, H, W, C) uint8 or uint16 images, a string.
                Observation t is what action t answered. "observation/images/front" and
                "observation.images.front" are the field "images.front".
            actions: (T, A), or None where none were recorded.
            rewards: (T,) of the step that executed action t; default zeros.
            successes: (T,) the same; without them success is unknown.
            timestamps: (T,) seconds of any clock at which the observations were taken; kept from
                the first on.
            interventions: (T,) where a person acted in a policy's place; without them nothing says.

        Raises ValueError for lengths that disagree, for values that are not finite, for text that
        changes within the episode, and for flags that are not true or false.
        """
        fields = {field_name(k): values_of(field_name(k), v) for k, v in observations.items()}
        acted = None if actions is None else np.asarray(actions, dtype=np.float32)
        if acted is not None and acted.ndim == 1:
            acted = acted[:, None]
        counts = [len(v) for v in fields.values() if not isinstance(v, str)]
        length = counts[0] if counts else 0 if acted is None else len(acted)
        reward = np.zeros(length) if rewards is None else np.asarray(rewards)
        success = np.zeros(length, bool)
        if successes is not None:
            success = _flags("successes", successes, environment)
        hit, first = (None, None) if successes is None else succeeded(success)
        return cls(
            fields,
            acted,
            reward.astype(np.float32),
            success,
            environment,
            source,
            seed,
            hit,
            first,
            float(reward.sum(dtype=np.float64)),
            timestamps=None if timestamps is None else from_first(timestamps),
            interventions=None
            if interventions is None
            else _flags("interventions", interventions, environment),
        )

    @property
    def fields(self) -> dict[str, Field]:
        """What its observations are."""
        return {name: Field.of(value) for name, value in self.observations.items()}

    @property
    def nbytes(self) -> int:
        """Bytes of its observations and actions."""
        arrays = [v for v in self.observations.values() if not isinstance(v, str)]
        return sum(x.nbytes for x in (*arrays, *([] if self.actions is None else [self.actions])))

    def __len__(self) -> int:
        return len(self.rewards)


def _flags(name: str, values: Any, environment: str) -> np.ndarray:
    """Flags (T,) as booleans."""
    found = np.asarray(values)
    if found.dtype == bool:
        return found
    if found.dtype.kind not in "iuf" or not ((found == 0) | (found == 1)).all():
        odd = found if found.dtype.kind not in "iuf" else found[(found != 0) & (found != 1)]
        raise ValueError(
            f"episode of '{environment}': {name} hold {odd.ravel()[:1].tolist()}; expected True "
            "or False (or 0 or 1) for every step"
        )
    return found.astype(bool)


def from_first(times: Any) -> np.ndarray:
    """Times (T,) as seconds (T,) f64 from the first of them."""
    x = np.asarray(times, dtype=np.float64)
    return x - x[:1] if x.ndim == 1 else x


def succeeded(successes: np.ndarray) -> tuple[bool, int]:
    """Whether any of the flags (T,) is set, and steps until the first (1-based), -1 for never."""
    hit = bool(successes.any())
    return hit, int(successes.argmax()) + 1 if hit else -1
