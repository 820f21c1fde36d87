"""Ranges of what is recorded, in lines for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from alltrades.data.rows import Rows
from alltrades.data.store import EpisodeStore

SHOWN = 24  # numbers of a field


def of_values(store: EpisodeStore) -> Iterator[str]:
    """Least and largest value of each number of the states and actions, and of the time between
    steps where it is known, environment by environment.

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
        index = np.flatnonzero(store.columns()["environment"] == environment)
        timed = store.timed(index)
        if timed.any():
            yield f"    time stamps: {_times(store, index, timed)}"


def _times(store: EpisodeStore, index: np.ndarray, timed: np.ndarray) -> str:
    """How many of an environment's episodes have them, and the seconds between steps. O(steps)."""
    change = np.diff(store.times(index).load())
    inside = np.ones(len(change), bool)
    inside[store.steps([str(store.columns()["environment"][index[0]])]).ends[:-1] - 1] = False
    change = change[inside]
    change = change[np.isfinite(change)]
    said = f"{int(timed.sum())} of {len(timed)} episodes"
    if not len(change):
        return said
    low, usual, high = change.min(), np.median(change), change.max()
    return f"{said}, {low:.4g} to {high:.4g} s from step to step (median {usual:.4g})"


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
