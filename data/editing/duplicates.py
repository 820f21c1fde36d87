"""Episodes that several stores hold: joined unnoticed, they would be trained on and held out."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator, Sequence

import numpy as np

from alltrades.data.editing.table import Table
from alltrades.data.episode import Episode
from alltrades.data.store import EpisodeStore

ALIKE = ("environment", "length")


def repeated(table: Table, index: np.ndarray) -> dict[int, int]:
    """{episode: the one of an earlier store that it equals} among some of a table's: the same
    observations and actions, whatever their labels, rewards and seeds, which a format may not keep.

    Reads the actions of those alone that are alike in environment and length, and all of those
    alone whose actions are equal.
    """
    columns = (table.columns[name][index].tolist() for name in ALIKE)
    out = {}
    for alike in _shared(table, index.tolist(), list(zip(*columns))):
        for same in _shared(table, alike, [_actions(*_place(table, i)) for i in alike]):
            seen: dict[bytes, int] = {}
            for i in same:
                store, number = _place(table, i)
                earlier = seen.setdefault(_content(store.episode(number)), i)
                if table.store[earlier] != table.store[i]:
                    out[i] = earlier
    return out


def _shared(table: Table, index: Sequence[int], keys: Sequence[Hashable]) -> Iterator[list[int]]:
    """Those of equal keys, where they are of several stores."""
    alike: dict[Hashable, list[int]] = {}
    for i, key in zip(index, keys):
        alike.setdefault(key, []).append(i)
    return (same for same in alike.values() if len(set(table.store[same])) > 1)


def _place(table: Table, i: int) -> tuple[EpisodeStore, int]:
    return table.stores[table.store[i]], int(table.number[i])


def _actions(store: EpisodeStore, number: int) -> bytes:
    actions = store.actions(number)
    return b"" if actions is None else hashlib.blake2b(np.ascontiguousarray(actions).data).digest()


def _content(episode: Episode) -> bytes:
    h = hashlib.blake2b()
    for name, value in sorted(episode.observations.items()):
        h.update(name.encode() + b"\0")
        if not isinstance(value, str):
            h.update(np.ascontiguousarray(value).data)
    h.update(b"\1" if episode.actions is None else np.ascontiguousarray(episode.actions).data)
    return h.digest()
