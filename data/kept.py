"""Rows that cost something to get: computed once, when they are first asked for, and kept in files
without names, from which any of them is read at once.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
from numcodecs import LZ4

_CODEC = LZ4()  # larger than others by half, and read twice as fast
Fill = Callable[[int, int], np.ndarray]  # rows start to stop, which are one piece


class Kept:
    """N rows that are filled piece by piece into a file that has no name, takes the space of what
    it holds, and ends with the process, however that ends. A source of rows.

    Where its disk is full, what is not kept yet is got anew whenever it is asked for. Threads may
    share it.

    Args:
        shape: (N, *row shape).
        piece: rows of a piece; all but the last have so many.
        fill: gets a piece.
        folder: of the file.

    Attributes:
        needs: bytes of disk that are put aside for it.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: np.dtype,
        piece: int,
        fill: Fill,
        folder: Path,
        needs: int = 0,
    ) -> None:
        self.needs = needs
        self.shape, self.dtype, self.piece = shape, np.dtype(dtype), piece
        self._fill, self._lock, self._full = fill, threading.Lock(), False
        self._there = np.zeros(-(-shape[0] // piece), bool)
        self._open(folder)

    @property
    def nbytes(self) -> int:
        """Bytes of all its rows."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    @property
    def held(self) -> int:
        """Bytes of disk that it takes now."""
        return 512 * os.fstat(self._file).st_blocks

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows start to stop (stop - start, *row shape)."""
        return self.take(np.arange(start, stop))

    def take(self, index: np.ndarray) -> np.ndarray:
        """Rows (n, *row shape) of an index (n,)."""
        pieces = index // self.piece
        missing = np.unique(pieces[~self._there[pieces]])
        others = {int(i): rows for i in missing if (rows := self._get(int(i))) is not None}
        if not others:
            return self._take(index)
        out = np.empty((len(index), *self.shape[1:]), self.dtype)
        kept = ~np.isin(pieces, list(others))
        out[kept] = self._take(index[kept])
        for i, rows in others.items():
            here = pieces == i
            out[here] = rows[index[here] - i * self.piece]
        return out

    def _get(self, i: int) -> np.ndarray | None:
        """Get piece i and keep it; returns it where it cannot be kept."""
        with self._lock:
            if self._there[i]:
                return None
            start = i * self.piece
            rows = self._fill(start, min(start + self.piece, self.shape[0]))
            try:
                if not self._full:
                    self._keep(start, np.ascontiguousarray(rows, self.dtype))
                    self._there[i] = True
                    return None
            except OSError:
                self._full = True
            return rows

    # ---- the file --------------------------------------------------------------------------------
    def _open(self, folder: Path) -> None:
        with TemporaryFile(dir=folder) as file:
            os.ftruncate(file.fileno(), self.nbytes)
            self._file = os.dup(file.fileno())
            self._map = np.asarray(np.memmap(file, self.dtype, "r", shape=self.shape))

    def _keep(self, start: int, rows: np.ndarray) -> None:
        _write(self._file, rows.data.cast("B"), start * (self.nbytes // self.shape[0]))

    def _take(self, index: np.ndarray) -> np.ndarray:
        return self._map[index]

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)


class Packed(Kept):
    """The same with every row compressed by itself: several times smaller where rows are images of
    simulators, and still as fast as a training takes them. 12 bytes of memory for each row.
    """

    def _open(self, folder: Path) -> None:
        with TemporaryFile(dir=folder) as file:
            self._file = os.dup(file.fileno())
        self._offset = np.zeros(self.shape[0], np.int64)
        self._size = np.zeros(self.shape[0], np.int32)
        self._end = 0

    def _keep(self, start: int, rows: np.ndarray) -> None:
        packed = [_CODEC.encode(row) for row in rows]
        sizes = np.array([len(p) for p in packed], np.int32)
        _write(self._file, memoryview(b"".join(packed)), self._end)
        own = slice(start, start + len(rows))
        self._offset[own], self._size[own] = self._end + np.cumsum(sizes) - sizes, sizes
        self._end += int(sizes.sum())

    def _take(self, index: np.ndarray) -> np.ndarray:
        out = np.empty((len(index), *self.shape[1:]), self.dtype)
        for row, offset, size in zip(out, self._offset[index], self._size[index]):
            _CODEC.decode(os.pread(self._file, int(size), int(offset)), row)
        return out


def packed_size(rows: np.ndarray) -> int:
    """Bytes of rows, each compressed by itself."""
    return sum(len(_CODEC.encode(np.ascontiguousarray(row))) for row in rows)


def _write(file: int, data: memoryview, offset: int) -> None:
    """All of it; raises OSError where the disk is full."""
    while len(data):
        count = os.pwrite(file, data, offset)
        data, offset = data[count:], offset + count
