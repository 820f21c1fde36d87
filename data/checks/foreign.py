"""Arrays of a foreign store as they are: whatever their names, numbers that are not finite too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from alltrades.data.fields import CHANNELS
from alltrades.data.flat import FlatStore, guarded

APART = ("action", "reward", "success")  # what is no observation


class RawArray:
    """Rows of one array of numbers: images (N, H, W, C), anything else (N, D)."""

    def __init__(self, path: Path, array: Any) -> None:
        row = tuple(array.shape[1:])
        picture = len(row) == 3 and row[2] in CHANNELS
        self.path, self._array = path, array
        self.row = row if picture else (int(np.prod(row, dtype=np.int64)),)
        self.shape, self.dtype = (int(array.shape[0]), *self.row), np.dtype(array.dtype)

    def read(self, start: int, stop: int) -> np.ndarray:
        """(stop - start, *row)"""
        found = guarded(self.path, lambda: np.asarray(self._array[start:stop]))
        return found.reshape(len(found), *self.row)

    def take(self, index: np.ndarray) -> np.ndarray:
        """Rows (n, *row) of an index (n,)."""
        found = guarded(self.path, lambda: np.asarray(self._array.oindex[index]))
        return found.reshape(len(found), *self.row)


def raw_arrays(path: Path) -> dict[str, RawArray]:
    """All arrays of steps of a foreign store, by name."""
    store = FlatStore(path, None)
    found = {}
    for name in store.names:
        array: Any = guarded(path, lambda name=name: store.group["data"][name])  # type: ignore[misc]
        if len(array.shape) and np.dtype(array.dtype).kind in "biuf":
            found[name] = RawArray(path / "data" / name, array)
    return found
