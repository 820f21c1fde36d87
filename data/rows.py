"""Rows of arrays that need not be in memory: views of what is in memory, in files and in stores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from alltrades.data.layout import pad

PIECE_BYTES = 2**22  # of the pieces in which rows are streamed


class Source(Protocol):
    """What rows are read from."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def read(self, start: int, stop: int) -> np.ndarray: ...
    def take(self, index: np.ndarray) -> np.ndarray: ...


class Memory:
    """An array in memory, or mapped from a file, as a source of rows."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.shape = array, tuple(array.shape)

    def read(self, start: int, stop: int) -> np.ndarray:
        return self.array[start:stop]

    def take(self, index: np.ndarray) -> np.ndarray:
        return self.array[index]


class Block(NamedTuple):
    """Rows start to stop of a source."""

    source: Source
    start: int
    stop: int


class Rows:
    """N rows of D numbers: blocks of sources one after another, each zero-padded or cut to D.

    Selecting and concatenating copy no row. Whatever reads (`take`, `load`, indexing, iteration)
    returns new arrays of `dtype`; one read of n rows costs O(n log blocks).

    Args:
        blocks: in order; sources have shape (., d).
        width: D; default the largest d.
    """

    ndim = 2

    def __init__(
        self, blocks: Sequence[Block], width: int | None = None, dtype: Any = np.float32
    ) -> None:
        self.blocks = _joined(blocks)
        self.dtype = np.dtype(dtype)
        widest = max((b.source.shape[1] for b in self.blocks), default=0)
        self.width = widest if width is None else width
        lengths = [b.stop - b.start for b in self.blocks]
        self.offsets = np.cumsum([0, *lengths], dtype=np.int64)  # (blocks + 1,)

    @classmethod
    def of(cls, array: np.ndarray | Rows) -> Rows:
        """An array (N, D) in memory as rows; rows as they are."""
        if isinstance(array, Rows):
            return array
        return cls([Block(Memory(array), 0, len(array))], array.shape[1], array.dtype)

    def __len__(self) -> int:
        return int(self.offsets[-1])

    @property
    def shape(self) -> tuple[int, int]:
        return len(self), self.width

    @property
    def nbytes(self) -> int:
        """Bytes of all rows in memory."""
        return len(self) * self.width * self.dtype.itemsize

    # ---- views -----------------------------------------------------------------------------------
    def resized(self, width: int) -> Rows:
        """The rows with `width` numbers: zeros are added, or those beyond are cut off."""
        return Rows(self.blocks, width, self.dtype)

    def select(self, keep: np.ndarray) -> Rows:
        """The rows where the mask (N,) is true."""
        edges = np.flatnonzero(np.diff(np.concatenate([[False], keep, [False]]).astype(np.int8)))
        return Rows(
            [b for low, high in edges.reshape(-1, 2) for b in self._between(int(low), int(high))],
            self.width,
            self.dtype,
        )

    @staticmethod
    def concatenate(parts: Sequence[Rows]) -> Rows:
        """All rows of `parts`, in order, padded to the widest."""
        return Rows(
            [b for p in parts for b in p.blocks],
            max(p.width for p in parts),
            np.result_type(*(p.dtype for p in parts)),
        )

    def _between(self, start: int, stop: int) -> Iterator[Block]:
        first = int(np.searchsorted(self.offsets, start, side="right")) - 1
        while start < stop:
            block, offset = self.blocks[first], int(self.offsets[first])
            end = min(stop, int(self.offsets[first + 1]))
            yield Block(block.source, block.start + start - offset, block.start + end - offset)
            start, first = end, first + 1

    # ---- reading ---------------------------------------------------------------------------------
    def take(self, index: np.ndarray, width: int | None = None) -> np.ndarray:
        """Rows (..., D) of an index (...), or (..., width): padded with zeros, or cut.

        Raises IndexError for an index outside.
        """
        columns = self.width if width is None else width
        if len(self.blocks) == 1:
            source, start, stop = self.blocks[0]
            if isinstance(source, Memory) and stop - start == len(source.array):
                return _fit(source.array[index], columns, self.dtype)
        index = np.asarray(index)
        flat = index.reshape(-1).astype(np.int64, copy=False)
        flat = np.where(flat < 0, flat + len(self), flat)
        if len(flat) and not (0 <= flat.min() and flat.max() < len(self)):
            raise IndexError(f"row {flat.min()} to {flat.max()} of {len(self)}")
        if len(self.blocks) == 1:
            source, start, _ = self.blocks[0]
            out = _fit(source.take(flat + start if start else flat), columns, self.dtype)
            return out.reshape(*index.shape, columns)
        out = np.empty((len(flat), columns), self.dtype)
        of_row = np.searchsorted(self.offsets, flat, side="right") - 1
        order = np.argsort(of_row, kind="stable")
        present, first = np.unique(of_row[order], return_index=True)
        groups: dict[int, tuple[Source, list[np.ndarray], list[np.ndarray]]] = {}
        for i, rows in zip(present, np.split(order, first[1:])):
            block = self.blocks[i]
            group = groups.setdefault(id(block.source), (block.source, [], []))
            group[1].append(rows)
            group[2].append(flat[rows] - self.offsets[i] + block.start)
        for source, at, where in groups.values():
            out[np.concatenate(at)] = _fit(source.take(np.concatenate(where)), columns, self.dtype)
        return out.reshape(*index.shape, columns)

    def pieces(self, size: int = PIECE_BYTES) -> Iterator[np.ndarray]:
        """All rows in order, as arrays (n, D) of about `size` bytes at most."""
        rows = max(1, size // max(1, self.width * self.dtype.itemsize))
        for source, start, stop in self.blocks:
            for low in range(start, stop, rows):
                read = source.read(low, min(low + rows, stop))
                yield _fit(read, self.width, self.dtype)

    def load(self, width: int | None = None, out: np.ndarray | None = None) -> np.ndarray:
        """All rows (N, width) in one array, `out` where it is given; columns beyond `width` are cut
        off.
        """
        columns = self.width if width is None else width
        out = np.empty((len(self), columns), self.dtype) if out is None else out
        at = 0
        for piece in self.pieces():
            out[at : at + len(piece)] = _fit(piece, columns, self.dtype)
            at += len(piece)
        return out

    def __getitem__(self, key: Any) -> np.ndarray:
        """As of an array: rows by number, slice, mask or index, and columns behind a comma."""
        rows, rest = (key[0], key[1:]) if isinstance(key, tuple) else (key, ())
        if isinstance(rows, slice):
            index = np.arange(*rows.indices(len(self)))
        else:
            index = np.asarray(rows)
            if index.dtype == bool:
                index = np.flatnonzero(index)
        value = self.take(index)
        return value[(*(slice(None) for _ in index.shape), *rest)] if rest else value

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.load().astype(dtype or self.dtype, copy=False)


def _joined(blocks: Sequence[Block]) -> list[Block]:
    """Blocks without empty ones, those that follow one another in one source as one."""
    out: list[Block] = []
    for block in blocks:
        if block.start == block.stop:
            continue
        if out and out[-1].source is block.source and out[-1].stop == block.start:
            block = Block(block.source, out.pop().start, block.stop)
        out.append(block)
    return out


def _fit(x: np.ndarray, width: int, dtype: np.dtype) -> np.ndarray:
    """(..., d) to (..., width): cut off, or zeros added."""
    return pad(x[..., :width].astype(dtype, copy=False), width)
