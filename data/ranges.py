"""Ranges of what is recorded, in lines for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from alltrades.data.rows import Rows
from alltrades.data.store import EpisodeStore

SHOWN = 24  # numbers of a field


def of_values(store: EpisodeStore) -> Iterator[str]:
    """Least and largest value of each number of the states and actions, environment by environment.

    Reads all of them, in pieces: O(bytes) without images.
    """
    held = set(store.columns()["environment"].tolist())
    for environment, interface in sorted(store.interfaces().items()):
        if environment not in held:
            continue
        steps = store.steps([environment])
        yield f"  {environment}, ranges:"
        for name, f in interface.of_kind("state").items():
            yield f"    {name}: {_ranges(steps.observation[name], f.names, f.units)}"
        acted = steps.select(steps.has_actions)
        if len(acted):
            action = interface.action
            yield f"    action: {_ranges(acted.action, action.names, action.units)}"


def _ranges(rows: Rows, names: Sequence[str] | None, units: Sequence[str] | None) -> str:
    low, high = np.full(rows.width, np.inf), np.full(rows.width, -np.inf)
    for piece in rows.pieces():
        low, high = np.minimum(low, piece.min(0)), np.maximum(high, piece.max(0))
    said = [
        f"{f'{names[d]} ' if names else ''}{low[d]:.4g} to {high[d]:.4g}"
        f"{f' {units[d]}' if units else ''}"
        for d in range(min(rows.width, SHOWN))
    ]
    more = f" and {rows.width - SHOWN} more" if rows.width > SHOWN else ""
    return "; ".join(said) + more
