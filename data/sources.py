"""What rows are read from: arrays in memory, and any array of a file or a store."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np


class Source(Protocol):
    """An array (N, *row shape) of which rows are read."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype: ...
    def read(self, start: int, stop: int) -> np.ndarray: ...
    def take(self, index: np.ndarray) -> np.ndarray: ...


class Memory:
    """An array in memory, or mapped from a file, as a source of rows."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.shape, self.dtype = array, tuple(array.shape), array.dtype

    def read(self, start: int, stop: int) -> np.ndarray:
        return self.array[start:stop]

    def take(self, index: np.ndarray) -> np.ndarray:
        return self.array[index]


class Absent:
    """Rows of a field that an episode does not have: zeros of any shape."""

    def __init__(self, rows: int) -> None:
        self.shape, self.dtype = (rows, 0), np.dtype(np.float32)

    def read(self, start: int, stop: int) -> np.ndarray:
        return np.zeros((stop - start, 0), np.float32)

    def take(self, index: np.ndarray) -> np.ndarray:
        return np.zeros((len(index), 0), np.float32)


class Block(NamedTuple):
    """Rows start to stop of a source."""

    source: Source
    start: int
    stop: int
