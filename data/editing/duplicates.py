"""Episodes that several stores hold: joined unnoticed, they would be trained on and held out."""

from __future__ import annotations

import hashlib

import numpy as np

from alltrades.data.editing.table import Table
from alltrades.data.episode import Episode

ALIKE = ("environment", "seed", "length", "return")


def repeated(table: Table, index: np.ndarray) -> dict[int, int]:
    """{episode: the one of an earlier store that it equals} among some of a table's: the same
    observations, actions and rewards, whatever their labels.

    Reads those alone that are alike in environment, seed, length and return.
    """
    alike: dict[tuple[object, ...], list[int]] = {}
    for i, *key in zip(index.tolist(), *(table.columns[name][index].tolist() for name in ALIKE)):
        alike.setdefault(tuple(key), []).append(i)
    out = {}
    for same in alike.values():
        seen: dict[bytes, int] = {}
        for i in same if len(set(table.store[same])) > 1 else ():
            episode = table.stores[table.store[i]].episode(int(table.number[i]))
            earlier = seen.setdefault(_content(episode), i)
            if table.store[earlier] != table.store[i]:
                out[i] = earlier
    return out


def _content(episode: Episode) -> bytes:
    h = hashlib.blake2b()
    for name, value in sorted(episode.observations.items()):
        h.update(name.encode() + b"\0")
        if not isinstance(value, str):
            h.update(np.ascontiguousarray(value).data)
    for column in (episode.actions, episode.rewards):
        h.update(b"\1" if column is None else np.ascontiguousarray(column).data)
    return h.digest()
