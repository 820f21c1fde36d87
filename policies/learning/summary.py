"""What is said of the data before anything trains on it: range, scale, outliers and dimensions that
stand still, of every field of every environment.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alltrades.data.interface import Interface
from alltrades.data.steps import Steps
from alltrades.policies.learning.initial import statistics_of
from alltrades.policies.model.statistics import Spread
from alltrades.policies.settings import PolicySettings

SHOWN = 3  # dimensions that are named one by one


def statistics_lines(
    demos: Steps, environments: Sequence[Interface], settings: PolicySettings
) -> list[str]:
    """A line for each environment and one for each of its fields and its actions, in its own
    units: what policies of these settings are normalised by.

    Raises UserError for an environment without demonstrations.
    """
    seen = [e.seeing(settings.observe) for e in environments]
    lines = []
    for own, environment in zip(statistics_of(demos, seen), seen):
        mine = demos.acted(environment.id)
        steps = int(demos.lengths[mine].sum())
        lines.append(f"{environment.id}: {steps:,} steps of {len(mine):,} episodes")
        for name, f in environment.observation.items():
            if f.kind == "state":
                found = own.states[name]
                lines.append(f"  {name}: {_described(found, found.std, f.names, f.units)}")
            elif f.kind == "image":
                low, high = own.images[name]
                lines.append(f"  {name}: {f}, {low:.4g} to {high:.4g} as -1 to 1")
        found, action = own.action, environment.action
        by_range = settings.action_normalizer == "range"
        scale = (found.inner_high - found.inner_low) / 2 if by_range else found.std
        of_each = action.image is None
        lines.append(
            "  action: "
            + _described(
                found, scale, action.names if of_each else None, action.units if of_each else None
            )
        )
    return lines


def _described(
    found: Spread,
    scale: np.ndarray,
    names: Sequence[str] | None,
    units: Sequence[str] | None,
) -> str:
    """Range and scale of the dimensions that move, then outliers, then those that stand still."""
    count, moving = len(scale), ~found.still
    parts = []
    if moving.any():
        unit = f" {units[0]}" if units and len(set(units)) == 1 else ""
        low, high = found.inner_low[moving].min(), found.inner_high[moving].max()
        least, most = scale[moving].min(), scale[moving].max()
        scales = f"{least:.3g}" if f"{least:.3g}" == f"{most:.3g}" else f"{least:.3g} to {most:.3g}"
        parts.append(f"{count} numbers, {low:.3g} to {high:.3g}{unit}, scale {scales}")
    outside = np.flatnonzero(found.outliers)
    if len(outside):
        parts.append(
            "outliers: "
            + _some(
                [
                    f"{_name(d, names)} ({found.outliers[d]:,} beyond {found.inner_low[d]:.3g} to "
                    f"{found.inner_high[d]:.3g}, from {found.low[d]:.3g} to {found.high[d]:.3g})"
                    for d in outside.tolist()
                ]
            )
        )
    if not moving.all():
        still = np.flatnonzero(found.still)
        parts.append(
            f"{len(still)} of {count} still: "
            + _some([f"{_name(d, names)} at {found.mean[d]:.3g}" for d in still.tolist()])
        )
    return "; ".join(parts)


def _name(dimension: int, names: Sequence[str] | None) -> str:
    return f"[{dimension}]" if names is None else names[dimension]


def _some(things: Sequence[str]) -> str:
    more = f" and {len(things) - SHOWN} more" if len(things) > SHOWN else ""
    return ", ".join(things[:SHOWN]) + more
