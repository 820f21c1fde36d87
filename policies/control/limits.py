"""What an action may be: box, rate and acceleration of each dimension, from an environment or
tightened by a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alltrades.errors import UserError, nearest

KEYS = ("low", "high", "rate", "acceleration")
EVERY = "*"  # in a file: every environment


@dataclass(frozen=True)
class Limits:
    """Bounds of an action's A dimensions, in the environment's action units.

    low, high: box; may be infinite. rate: largest change between two control steps. acceleration:
    largest change of that change. None is no limit.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    rate: tuple[float, ...] | None = None
    acceleration: tuple[float, ...] | None = None

    @classmethod
    def of(cls, info: Any) -> Limits:
        """Those of an environment as a policy remembers it."""
        return cls(
            tuple(info.action_low),
            tuple(info.action_high),
            getattr(info, "max_action_rate", None),
            getattr(info, "max_action_acceleration", None),
        )

    def tightened(self, entry: Mapping[str, Any], where: str) -> Limits:
        """These limits and further ones, of which a number holds for every dimension; `where` names
        their source in errors.

        Raises UserError for unknown keys, a wrong number of entries, limits that are not positive,
        and a box that reaches beyond this one: a file cannot allow what the environment does not.
        """
        size = len(self.low)
        for key in entry:
            if key not in KEYS:
                raise UserError(
                    f"{where}: unknown limit '{key}'; expected "
                    f"{', '.join(KEYS)}{nearest(str(key), list(KEYS))}"
                )
        new = {key: _vector(value, size, f"{where}: {key}") for key, value in entry.items()}
        low, high = (
            np.array(new.get(k, old)) for k, old in (("low", self.low), ("high", self.high))
        )
        if (low > high).any() or (low < self.low).any() or (high > self.high).any():
            raise UserError(
                f"{where}: box {low.tolist()} to {high.tolist()}; expected one inside the "
                "environment's "
                f"{list(self.low)} to {list(self.high)}"
            )
        out: dict[str, tuple[float, ...] | None] = {}
        for key, old in (("rate", self.rate), ("acceleration", self.acceleration)):
            value = new.get(key)
            if value is not None and min(value) <= 0:
                raise UserError(
                    f"{where}: {key} {list(value)}; expected positive numbers; leave the key out "
                    "for no limit"
                )
            both = [v for v in (old, value) if v is not None]
            out[key] = tuple(np.min(both, axis=0).tolist()) if both else None
        return Limits(tuple(low.tolist()), tuple(high.tolist()), out["rate"], out["acceleration"])

    def check_stop(self, action: Sequence[float | None] | None, where: str) -> None:
        """Raise UserError where what brings a robot to rest is outside the box, so that it could
        not be stopped.
        """
        if action is not None and not all(
            v is None or a <= v <= b for a, v, b in zip(self.low, action, self.high)
        ):
            raise UserError(
                f"{where}: the stop action {list(action)} lies outside the box {list(self.low)} to "
                f"{list(self.high)}; expected it inside; widen the limits"
            )


def read_limits(path: Path | str, environments: Sequence[Any]) -> dict[str, Limits]:
    """Limits of every environment of a policy, tightened by a YAML file; the box is in action
    units, rates per control step.

        "*": {rate: 0.2}
        planar/reach: {low: [-0.5, -0.5], high: 0.5, acceleration: 0.05}

    Raises UserError for a file that cannot be read or names an environment that the policy does not
    know.
    """
    import yaml

    path = Path(path)
    try:
        entries = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(
            f"{path}: limits cannot be read ({' '.join(str(error).split())[:160]}); expected a "
            "YAML file"
        ) from error
    if not isinstance(entries, dict) or not all(isinstance(v, dict) for v in entries.values()):
        raise UserError(
            f'{path}: expected environment ids (or "{EVERY}"), each with some of {", ".join(KEYS)}'
        )
    ids = [info.id for info in environments]
    for name in entries:
        if name != EVERY and name not in ids:
            raise UserError(
                f"{path}: limits of '{name}', which the policy does not know; expected "
                f'"{EVERY}" or one of '
                f"{', '.join(ids[:12])}{nearest(str(name), ids)}"
            )
    out = {}
    for info in environments:
        limits = Limits.of(info)
        for name in (EVERY, info.id):
            limits = limits.tightened(entries.get(name, {}), f"{path}: {name}")
        out[info.id] = limits
    return out


def _vector(value: Any, size: int, where: str) -> tuple[float, ...]:
    entries = [value] * size if isinstance(value, int | float) else value
    if (
        not isinstance(entries, list)
        or len(entries) != size
        or not all(
            isinstance(v, int | float) and not isinstance(v, bool) and not np.isnan(v)
            for v in entries
        )
    ):
        raise UserError(f"{where} = {value!r}; expected a number or a list of {size}")
    return tuple(float(v) for v in entries)
