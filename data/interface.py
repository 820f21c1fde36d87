"""What a policy must know of an environment: observation, actions, rate. It travels with artifacts,
exported graphs and servers; NumPy only, so that controllers need nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from alltrades.errors import UserError, nearest

KEYS = ("low", "high", "rate", "acceleration")  # what can be tightened


class NotFinite(UserError):
    """An observation with entries that are no finite numbers: often a sensor's fault, which
    passes.
    """


@dataclass(frozen=True)
class ActionSpec:
    """Limits of an action of A dimensions, in the environment's action units.

    Attributes:
        low, high: (A,) box; may be infinite.
        rate: (A,) largest change between two control steps, or None for no limit.
        acceleration: (A,) largest change of that change, or None for no limit.
        stop: (A,) what brings a robot to rest, such as zero velocities; None for a dimension that
            keeps its last value (a gripper that holds something, a position). Without one a robot
            that gets no more actions holds the last.

    Raises ValueError when sizes disagree, the box is empty, a limit is not positive or `stop` lies
    outside the box.
    """

    low: Sequence[float]
    high: Sequence[float]
    rate: Sequence[float] | None = None
    acceleration: Sequence[float] | None = None
    stop: Sequence[float | None] | None = None

    def __post_init__(self) -> None:
        for name in (*KEYS, "stop"):
            value = getattr(self, name)
            if value is not None:
                entries = tuple(None if v is None else float(v) for v in value)
                object.__setattr__(self, name, entries)
        if len(self.low) != len(self.high) or not all(a <= b for a, b in zip(self.low, self.high)):
            raise ValueError(
                f"action limits: low {list(self.low)}, high {list(self.high)}; expected two lists "
                "of one length with low <= high"
            )
        for name, limit in (("rate", self.rate), ("acceleration", self.acceleration)):
            if limit is not None and (len(limit) != self.size or not all(v > 0 for v in limit)):
                raise ValueError(
                    f"action limits: {name} {list(limit)}; expected {self.size} positive numbers"
                )
        if self.stop is not None and (len(self.stop) != self.size or self._outside(self.stop)):
            raise ValueError(
                f"action limits: stop {list(self.stop)}; expected {self.size} entries, each inside "
                "the box or None"
            )

    @property
    def size(self) -> int:
        return len(self.low)

    def _outside(self, stop: Sequence[float | None]) -> bool:
        return not all(v is None or a <= v <= b for a, v, b in zip(self.low, stop, self.high))

    def tightened(self, entry: Mapping[str, Any], where: str) -> ActionSpec:
        """These limits and further ones, of which a number holds for every dimension; `where` names
        their source in errors.

        Raises UserError for unknown keys, a wrong number of entries, limits that are not positive,
        a box that reaches beyond this one (a file cannot allow what the environment does not), and
        one that leaves `stop` outside.
        """
        for key in entry:
            if key not in KEYS:
                raise UserError(
                    f"{where}: unknown limit '{key}'; expected "
                    f"{', '.join(KEYS)}{nearest(str(key), list(KEYS))}"
                )
        new = {key: _vector(value, self.size, f"{where}: {key}") for key, value in entry.items()}
        low, high = new.get("low", self.low), new.get("high", self.high)
        if any(a > b for a, b in zip((*low, *self.low, *high), (*high, *low, *self.high))):
            raise UserError(
                f"{where}: box {list(low)} to {list(high)}; expected one inside the environment's "
                f"{list(self.low)} to {list(self.high)}"
            )
        changes: dict[str, Any] = {}
        for key, old in (("rate", self.rate), ("acceleration", self.acceleration)):
            value = new.get(key)
            if value is not None and min(value) <= 0:
                raise UserError(
                    f"{where}: {key} {list(value)}; expected positive numbers; leave the key out "
                    "for no limit"
                )
            if value is not None:
                changes[key] = value if old is None else tuple(map(min, old, value))
        box = replace(self, low=low, high=high, stop=None, **changes)
        return box.stopping_at(self.stop, where)

    def stopping_at(self, stop: Sequence[float | None] | None, where: str) -> ActionSpec:
        """These limits with another stop action; raises UserError where it lies outside the box, so
        that a robot could not be stopped.
        """
        if stop is not None and self._outside(stop):
            raise UserError(
                f"{where}: the stop action {list(stop)} lies outside the box {list(self.low)} to "
                f"{list(self.high)}; expected it inside; widen the limits"
            )
        return replace(self, stop=stop)

    def at_rate(self, declared: float, rate: float) -> ActionSpec:
        """Limits per control step at `declared` Hz as limits per control step at `rate` Hz: the
        same per second, and per second^2.
        """
        scale = declared / rate
        return replace(
            self,
            rate=None if self.rate is None else [scale * v for v in self.rate],
            acceleration=None
            if self.acceleration is None
            else [scale**2 * v for v in self.acceleration],
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values; JSON has no infinity: null is no bound."""
        return {
            name: None if values is None else [_plain(v) for v in values]
            for name, values in asdict(self).items()
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ActionSpec:
        """From what `to_json` gave; raises TypeError, KeyError or ValueError for anything else."""
        unbounded = {"low": -np.inf, "high": np.inf, "rate": np.inf, "acceleration": np.inf}
        fields: dict[str, Any] = {
            name: values
            if values is None or name not in unbounded
            else [unbounded[name] if v is None else v for v in values]
            for name, values in value.items()
        }
        return cls(**fields)


@dataclass(frozen=True)
class Interface:
    """What goes into a policy and comes out of it in one environment.

    Attributes:
        id: name in the registry, such as "planar/reach".
        obs_dim: length of the flat observation vector.
        action: limits of the actions.
        max_steps: time limit in control steps.
        control_hz: control rate in Hz.
        image_shape: (height, width) where observation and action are images, flattened row by row.
        version: higher when observations or actions change meaning.

    Raises ValueError for what cannot be.
    """

    id: str
    obs_dim: int
    action: ActionSpec
    max_steps: int
    control_hz: float = 10.0
    image_shape: tuple[int, int] | None = None
    version: int = 1

    def __post_init__(self) -> None:
        if self.max_steps < 1 or self.obs_dim < 1:
            raise ValueError(
                f"{self.id}: max_steps and obs_dim must be positive, got {self.max_steps}, "
                f"{self.obs_dim}"
            )
        if not 0 < self.control_hz < np.inf:
            raise ValueError(
                f"{self.id}: control_hz {self.control_hz}; expected a positive number of Hz"
            )
        if self.image_shape is not None:
            pixels = self.image_shape[0] * self.image_shape[1]
            if self.obs_dim % pixels or self.action_dim % pixels:
                raise ValueError(
                    f"{self.id}: images of {self.image_shape} with {self.obs_dim} observations and "
                    f"{self.action_dim} actions; expected multiples of {pixels}"
                )

    @property
    def action_dim(self) -> int:
        return self.action.size

    def check(self, observation: Any) -> np.ndarray:
        """One observation (obs_dim,) or several (k, obs_dim), k >= 1 -> the same as float32, a
        copy. The only check of an observation.

        Raises UserError for what is no array of numbers of that shape, and `NotFinite`.
        """
        try:
            given = np.asarray(observation)
        except ValueError:  # lists of unequal lengths
            given = np.empty(0, dtype=object)
        if given.dtype.kind not in "biuf":
            raise UserError(
                f"observation of '{self.id}' is a {type(observation).__name__} of dtype "
                f"{given.dtype}; expected numbers of shape ({self.obs_dim},)"
            )
        if given.ndim not in (1, 2) or given.shape[-1] != self.obs_dim or not len(given):
            raise UserError(
                f"observation of shape {given.shape}; expected ({self.obs_dim},), or (k, "
                f"{self.obs_dim}) with k >= 1, for '{self.id}'; check the environment id and what "
                "the observation holds"
            )
        with np.errstate(over="ignore"):
            out = given.astype(np.float32)
        finite = np.isfinite(out)
        if not finite.all():
            raise NotFinite(
                f"observation of '{self.id}' is not finite at entry "
                f"{int(np.argmin(finite.reshape(-1, self.obs_dim).all(axis=0)))}; expected finite "
                "numbers; check the sensor"
            )
        return out

    def digest(self) -> str:
        """Hash of what a policy depends on: sizes, action bounds, control rate, version (not the
        time limit).
        """
        facts = [
            self.id,
            self.obs_dim,
            self.action_dim,
            list(self.action.low),
            list(self.action.high),
            self.control_hz,
            self.version,
            *([] if self.image_shape is None else [list(self.image_shape)]),
        ]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """Plain values, see `ActionSpec.to_json`."""
        shape = None if self.image_shape is None else list(self.image_shape)
        return {**vars(self), "action": self.action.to_json(), "image_shape": shape}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Interface:
        """From what `to_json` gave; raises TypeError, KeyError or ValueError for anything else."""
        shape = value["image_shape"]
        return cls(
            **{
                **value,
                "action": ActionSpec.from_json(value["action"]),
                "image_shape": None if shape is None else tuple(shape),
            }
        )


def common_image_shape(interfaces: Sequence[Interface]) -> tuple[int, int] | None:
    """(height, width) of the images that all environments are; None where one is not, or is of
    another shape.
    """
    shapes = {e.image_shape for e in interfaces}
    return shapes.pop() if len(shapes) == 1 else None


def _plain(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else value


def _vector(value: Any, size: int, where: str) -> tuple[float, ...]:
    entries = [value] * size if isinstance(value, int | float) else value
    if (
        not isinstance(entries, list | tuple)
        or len(entries) != size
        or not all(
            isinstance(v, int | float) and not isinstance(v, bool) and not np.isnan(v)
            for v in entries
        )
    ):
        raise UserError(f"{where} = {value!r}; expected a number or a list of {size}")
    return tuple(float(v) for v in entries)
