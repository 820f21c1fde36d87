"""Limits of an action: box, rate, acceleration, stop. NumPy only."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from alltrades.errors import UserError, nearest

KEYS = ("low", "high", "rate", "acceleration")  # what can be tightened
SHOWN = 3  # numbers of an action in a message


@dataclass(frozen=True)
class ActionSpec:
    """Limits of an action of A dimensions, in the environment's action units.

    Attributes:
        low, high: (A,) box; may be infinite; None where it is unknown, both or neither.
        rate: (A,) largest change between two control steps, or None for no limit.
        acceleration: (A,) largest change of that change, or None for no limit.
        stop: (A,) what brings a robot to rest, such as zero velocities; None for a dimension that
            keeps its last value (a gripper that holds something, a position). Without one a robot
            that gets no more actions holds the last.
        names, units: (A,) of the dimensions, where they are known.
        image: (height, width, channels) where an action is an image, flattened row by row.
        dims: A, needed where the box is unknown.

    Raises ValueError when sizes disagree, the box is empty, a limit is not positive or `stop` lies
    outside the box.
    """

    low: Sequence[float] | None
    high: Sequence[float] | None
    rate: Sequence[float] | None = None
    acceleration: Sequence[float] | None = None
    stop: Sequence[float | None] | None = None
    names: Sequence[str] | None = None
    units: Sequence[str] | None = None
    image: tuple[int, int, int] | None = None
    dims: int | None = None

    def __post_init__(self) -> None:
        for name in (*KEYS, "stop"):
            value = getattr(self, name)
            if value is not None:
                entries = tuple(None if v is None else float(v) for v in value)
                object.__setattr__(self, name, entries)
        for name in ("names", "units", "image"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, tuple(value))
        if self.low is None or self.high is None:
            if not (self.low is None and self.high is None and self.dims is not None):
                raise ValueError(
                    "action limits: no box and no number of dimensions; expected low and high, or "
                    "neither and dims"
                )
        elif len(self.low) != len(self.high) or not all(
            a <= b for a, b in zip(self.low, self.high)
        ):
            raise ValueError(
                f"action limits: low {few(self.low)}, high {few(self.high)}"
                f"{_first(lambda a, b: not a <= b, self.low, self.high)}; expected two lists of "
                "one length with low <= high"
            )
        if self.dims is None:
            object.__setattr__(self, "dims", len(self.low or ()))
        for name, limit in (("rate", self.rate), ("acceleration", self.acceleration)):
            if limit is not None and (len(limit) != self.size or not all(v > 0 for v in limit)):
                raise ValueError(
                    f"action limits: {name} {few(limit)}{_first(lambda v: not v > 0, limit)}; "
                    f"expected {self.size} positive numbers"
                )
        if self.stop is not None and (len(self.stop) != self.size or self._outside(self.stop)):
            raise ValueError(
                f"action limits: stop {few(self.stop)}{self._which(self.stop)}; expected "
                f"{self.size} entries, each inside the box or None"
            )
        facts = (("dims", self.low), ("names", self.names), ("units", self.units))
        for name, given in facts:
            if given is not None and len(given) != self.size:
                raise ValueError(
                    f"action limits: {len(given)} {'limits' if name == 'dims' else name}; expected "
                    f"{self.size}"
                )
        if self.image is not None and int(np.prod(self.image)) != self.size:
            raise ValueError(
                f"action limits: {self.size} numbers as an image of {self.image}; expected "
                f"{int(np.prod(self.image))}"
            )

    @classmethod
    def unknown(cls, size: int, **facts: Any) -> ActionSpec:
        """Actions of `size` numbers whose box nobody has declared."""
        return cls(None, None, dims=size, **facts)

    @property
    def size(self) -> int:
        assert self.dims is not None  # set when it is made
        return self.dims

    @property
    def bounded(self) -> bool:
        """Whether the box is known."""
        return self.low is not None

    @property
    def box(self) -> tuple[np.ndarray, np.ndarray]:
        """(A,) float64 low and high, infinite where they are unknown."""
        low = np.full(self.size, -np.inf) if self.low is None else np.array(self.low, float)
        high = np.full(self.size, np.inf) if self.high is None else np.array(self.high, float)
        return low, high

    def _outside(self, stop: Sequence[float | None]) -> bool:
        return bool(self._which(stop))

    def _which(self, stop: Sequence[float | None]) -> str:
        """The first dimension of a stop action that lies outside the box, in words, or ""."""
        return _first(lambda v, a, b: v is not None and not a <= v <= b, stop, *self.box)

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
        mine = tuple(tuple(v.tolist()) for v in self.box)
        low, high = new.get("low", mine[0]), new.get("high", mine[1])
        if any(a > b for a, b in zip((*low, *mine[0], *high), (*high, *low, *mine[1]))):
            raise UserError(
                f"{where}: box {few(low)} to {few(high)}"
                f"{_first(lambda a, b, c, d: not c <= a <= b <= d, low, high, *mine)}; expected "
                f"one inside the environment's {few(mine[0])} to {few(mine[1])}"
            )
        changes: dict[str, Any] = {}
        for key, old in (("rate", self.rate), ("acceleration", self.acceleration)):
            value = new.get(key)
            if value is not None and min(value) <= 0:
                raise UserError(
                    f"{where}: {key} {few(value)}{_first(lambda v: v <= 0, value)}; expected "
                    "positive numbers; leave the key out for no limit"
                )
            if value is not None:
                changes[key] = value if old is None else tuple(map(min, old, value))
        known = self.bounded or "low" in new or "high" in new
        bounds: dict[str, Any] = {"low": low, "high": high} if known else {}
        box = replace(self, stop=None, **bounds, **changes)
        return box.stopping_at(self.stop, where)

    def stopping_at(self, stop: Sequence[float | None] | None, where: str) -> ActionSpec:
        """These limits with another stop action; raises UserError where it lies outside the box, so
        that a robot could not be stopped.
        """
        if stop is not None and self._outside(stop):
            raise UserError(
                f"{where}: the stop action {few(stop)} lies outside the box {few(self.box[0])} to "
                f"{few(self.box[1])}{self._which(stop)}; expected it inside; widen the limits"
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
        out = asdict(self)
        for name in (*KEYS, "stop"):
            if out[name] is not None:
                out[name] = [_plain(v) for v in out[name]]
        return out

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


def few(values: Sequence[float | None] | np.ndarray) -> str:
    """Numbers of an action for a message: a few of them, however many there are."""
    shown = ["None" if v is None else f"{v:.6g}" for v in values[:SHOWN]]
    return f"[{', '.join(shown)}{f', .. of {len(values)}' if len(values) > SHOWN else ''}]"


def _first(wrong: Callable[..., bool], *columns: Sequence[Any] | np.ndarray) -> str:
    """Which dimension is the first that is wrong, for a message; "" where none is."""
    found = next((i for i, row in enumerate(zip(*columns)) if wrong(*row)), None)
    if found is None:
        return ""
    values = ", ".join("None" if c[found] is None else f"{c[found]:.6g}" for c in columns)
    return f" (dimension {found}: {values})"


def _plain(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else value


def _is_number(value: Any) -> bool:
    """Whether a value is a number that float64 holds, infinities among them."""
    if isinstance(value, int) and not isinstance(value, bool):
        return abs(value) <= sys.float_info.max
    return isinstance(value, float) and not math.isnan(value)


def _vector(value: Any, size: int, where: str) -> tuple[float, ...]:
    entries = [value] * size if isinstance(value, int | float) else value
    if (
        not isinstance(entries, list | tuple)
        or len(entries) != size
        or not all(map(_is_number, entries))
    ):
        raise UserError(f"{where} = {repr(value)[:60]}; expected a number or a list of {size}")
    return tuple(float(v) for v in entries)
