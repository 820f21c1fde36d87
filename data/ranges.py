"""Ranges of what is recorded, in lines for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from alltrades.data.extremes import extremes
from alltrades.data.groups import Ranges, array_name
from alltrades.data.interface import Interface
from alltrades.data.rows import Rows
from alltrades.data.store import EpisodeStore

SHOWN = 24  # numbers of a field
ACTION = "data/action"


def of_values(store: EpisodeStore) -> Iterator[str]:
    """Least and largest value of each number of the states and actions, and of the time between
    steps where it is known, environment by environment.

    They are those of the store's commit. Stores that have none there are read, in pieces: O(bytes)
    without images; so are time stamps.
    """
    for environment, interface in sorted(store.interfaces().items()):
        index = store.numbers(environment)
        if not len(index):
            continue
        yield f"  {environment}, ranges:"
        known = store.ranges(environment)
        if known is None:
            known = _read(store, interface)
        for name, f in interface.of_kind("state").items():
            low, high = known[array_name(name)]
            yield f"    {name}: {_said(low, high, f.shape[0], f.names, f.units)}"
        if ACTION in known:
            action = interface.action
            low, high = known[ACTION]
            said = _said(low, high, interface.action_dim, action.names, action.units)
            yield f"    action: {said}"
        timed = store.timed(index)
        if timed.any():
            yield f"    time stamps: {_times(store, index, timed)}"


def _read(store: EpisodeStore, interface: Interface) -> Ranges:
    """The ranges of an environment's rows."""
    steps = store.steps([interface.id])
    acted = steps.select(steps.has_actions)
    rows = {array_name(n): steps.observation[n] for n in interface.of_kind("state")}
    return {n: _extremes(r) for n, r in (rows | {ACTION: acted.action}).items() if len(r)}


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


def _extremes(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.full(rows.width, np.inf), np.full(rows.width, -np.inf)
    for piece in rows.pieces():
        least, largest = extremes(piece)
        low, high = np.minimum(low, least), np.maximum(high, largest)
    return low, high


def _said(
    low: np.ndarray,
    high: np.ndarray,
    width: int,
    names: Sequence[str] | None,
    units: Sequence[str] | None,
) -> str:
    said = [
        f"{f'{names[d]} ' if names else ''}{low[d]:.4g} to {high[d]:.4g}"
        f"{f' {units[d]}' if units else ''}"
        for d in range(min(width, SHOWN))
    ]
    more = f" and {width - SHOWN} more" if width > SHOWN else ""
    return "; ".join(said) + more
