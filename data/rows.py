"""Rows of arrays that need not be in memory: views of what is in memory, in files and in stores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from alltrades.data.layout import pad
from alltrades.data.runs import Runs
from alltrades.data.sources import Absent, Block, Memory, Source

PIECE_BYTES = 2**22  # of the pieces in which rows are streamed


class Rows:
    """N rows of a field: blocks of sources one after another.

    Rows of one dimension, (d,), are zero-padded or cut to D. Of rows of more, such as images, only
    those of the shape that is asked for are read; others are zero, as those of `Absent` sources.

    Selecting and concatenating copy no row. Whatever reads (`take`, `load`, indexing, iteration)
    returns new arrays of `dtype`; one read of n rows costs O(n log blocks). Memory: 28 bytes for
    each run of rows that follow one another in a source (see `Runs`).

    Args:
        blocks: in order; sources have shape (., *row shape).
        shape: of a row; default the widest, or the one shape of more dimensions that there is.
    """

    def __init__(
        self,
        blocks: Sequence[Block] | Runs,
        shape: int | tuple[int, ...] | None = None,
        dtype: Any = np.float32,
    ) -> None:
        self.runs = blocks if isinstance(blocks, Runs) else Runs.of(blocks)
        self.dtype = np.dtype(dtype)
        self._shape = (shape,) if isinstance(shape, int) else shape

    @classmethod
    def of(cls, array: np.ndarray | Rows) -> Rows:
        """An array (N, *shape) in memory as rows; rows as they are."""
        if isinstance(array, Rows):
            return array
        return cls([Block(Memory(array), 0, len(array))], array.shape[1:], array.dtype)

    @classmethod
    def absent(cls, rows: int) -> Rows:
        """So many rows of a field that is not there."""
        return cls([Block(Absent(rows), 0, rows)])

    def __len__(self) -> int:
        return self.runs.rows

    @property
    def shapes(self) -> set[tuple[int, ...]]:
        """Row shapes of its sources."""
        found = (s for s in self.runs.sources if not isinstance(s, Absent))
        return {tuple(s.shape[1:]) for s in found}

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Of what is read. Raises ValueError where rows of several shapes leave it open."""
        if self._shape is not None:
            return self._shape
        shapes = self.shapes
        if all(len(s) == 1 for s in shapes):
            return max(shapes, default=(0,))
        if len(shapes) > 1:
            raise ValueError(f"rows of shapes {sorted(shapes)}; say which are to be read")
        return next(iter(shapes))

    @property
    def width(self) -> int:
        """D of rows (D,)."""
        (width,) = self.row_shape
        return width

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self), *self.row_shape

    @property
    def ndim(self) -> int:
        return 1 + len(self.row_shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all rows in memory; rows of more dimensions that are absent or of another shape
        than is read take none.
        """
        counts = list(zip(self.runs.sources, self.runs.of_source.tolist()))
        if self._shape is None and any(len(s) > 1 for s in self.shapes):
            sizes = [rows * _size(source.shape[1:]) for source, rows in counts]
        else:
            row = self.row_shape
            sizes = [rows * _size(row) for source, rows in counts if _fits(source, row)]
        return sum(sizes) * self.dtype.itemsize

    # ---- views -----------------------------------------------------------------------------------
    def resized(self, shape: int | tuple[int, ...]) -> Rows:
        """The rows with this shape: zeros are added to (D,), or what is beyond is cut off."""
        return Rows(self.runs, shape, self.dtype)

    @property
    def fitting(self) -> list[bool]:
        """Of each source, whether its rows are read, and not zeros of another or no shape."""
        return [_fits(s, self.row_shape) for s in self.runs.sources]

    def present(self) -> Rows:
        """Only the rows that are read; itself where all are."""
        there = self.fitting
        return self if all(there) else Rows(self.runs.having(there), self.row_shape, self.dtype)

    def only(self, dtype: Any) -> Rows:
        """The rows as those of a field whose images have this dtype: images of others are absent.
        Itself where there are none.
        """
        kind = np.dtype(dtype)
        if self._images <= {kind}:
            return self

        def own(source: Source) -> Source:
            other = len(source.shape) > 2 and source.dtype != kind
            return Absent(source.shape[0]) if other else source

        return Rows(self.runs.reading([own(s) for s in self.runs.sources]), self._shape, kind)

    @cached_property
    def _images(self) -> set[np.dtype]:
        """Dtypes of its sources that have rows of more dimensions."""
        return {s.dtype for s in self.runs.sources if len(s.shape) > 2}

    def reading(self, other: Callable[[Source], Source]) -> Rows:
        """The same rows, read from another source each."""
        return Rows(self.runs.reading(list(map(other, self.runs.sources))), self._shape, self.dtype)

    def select(self, keep: np.ndarray) -> Rows:
        """The rows where the mask (N,) is true."""
        edges = np.flatnonzero(np.diff(np.concatenate([[False], keep, [False]]).astype(np.int8)))
        return self.between(*edges.reshape(-1, 2).T)

    def between(self, low: np.ndarray, high: np.ndarray) -> Rows:
        """Rows low to high of each of some ranges (n,), in order."""
        return Rows(self.runs.between(low, high), self._shape, self.dtype)

    @staticmethod
    def concatenate(parts: Sequence[Rows]) -> Rows:
        """All rows of `parts`, in order, of any shapes."""
        real = [p for p in parts if p.shapes] or list(parts)
        return Rows(
            Runs.concatenate([p.runs for p in parts]),
            dtype=np.result_type(*(p.dtype for p in real)),
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """For other processes: the rows alone, in memory, of sources of equal rows in one array."""
        arrays: dict[tuple[Any, ...], list[np.ndarray]] = {}
        blocks: list[tuple[tuple[Any, ...] | None, int]] = []  # array and number of rows
        for source, start, stop in self.runs:
            key = None
            if not isinstance(source, Absent):
                key = (tuple(source.shape[1:]), source.dtype.str)
                arrays.setdefault(key, []).append(np.ascontiguousarray(source.read(start, stop)))
            blocks.append((key, stop - start))
        whole = {k: a[0] if len(a) == 1 else np.concatenate(a) for k, a in arrays.items()}
        return _sent, (whole, blocks, self._shape, self.dtype)

    # ---- reading ---------------------------------------------------------------------------------
    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows start to stop (stop - start, *shape), which stand one after another."""
        row, parts = self.row_shape, []
        for source, low, high in self.runs.between(np.array([start]), np.array([stop])):
            if _fits(source, row):
                parts.append(_fit(source.read(low, high), row, self.dtype))
            else:
                parts.append(np.zeros((high - low, *row), self.dtype))
        if not parts:
            return np.zeros((0, *row), self.dtype)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def take(self, index: np.ndarray, shape: int | tuple[int, ...] | None = None) -> np.ndarray:
        """Rows (..., *shape) of an index (...).

        Raises IndexError for an index outside.
        """
        row = self.row_shape if shape is None else (shape,) if isinstance(shape, int) else shape
        runs = self.runs
        if len(runs) == 1:
            source = runs.sources[0]
            if isinstance(source, Memory) and runs.rows == len(source.array) and _fits(source, row):
                return _fit(source.array[index], row, self.dtype)
        index = np.asarray(index)
        flat = index.reshape(-1).astype(np.int64, copy=False)
        flat = np.where(flat < 0, flat + len(self), flat)
        if len(flat) and not (0 <= flat.min() and flat.max() < len(self)):
            raise IndexError(f"row {flat.min()} to {flat.max()} of {len(self)}")
        if len(runs) == 1 and _fits(runs.sources[0], row):
            start = int(runs.start[0])
            out = _fit(runs.sources[0].take(flat + start if start else flat), row, self.dtype)
            return out.reshape(*index.shape, *row)
        out = np.zeros((len(flat), *row), self.dtype)
        run = np.searchsorted(runs.offsets, flat, side="right") - 1
        where, which = flat - runs.offsets[run] + runs.start[run], runs.source[run]
        order = np.argsort(which, kind="stable")
        present, first = np.unique(which[order], return_index=True)
        for i, at in zip(present.tolist(), np.split(order, first[1:])):
            if _fits(runs.sources[i], row):
                out[at] = _fit(runs.sources[i].take(where[at]), row, self.dtype)
        return out.reshape(*index.shape, *row)

    def pieces(self, size: int = PIECE_BYTES) -> Iterator[np.ndarray]:
        """All rows in order, as arrays (n, *shape) of about `size` bytes at most."""
        row = self.row_shape
        one = max(1, int(np.prod(row, dtype=np.int64)) * self.dtype.itemsize)
        rows = max(1, size // one)
        for source, start, stop in self.runs:
            for low in range(start, stop, rows):
                high = min(low + rows, stop)
                if _fits(source, row):
                    yield _fit(source.read(low, high), row, self.dtype)
                else:
                    yield np.zeros((high - low, *row), self.dtype)

    def load(
        self, shape: int | tuple[int, ...] | None = None, out: np.ndarray | None = None
    ) -> np.ndarray:
        """All rows (N, *shape) in one array, `out` where it is given. Source by source, so that
        each chunk of a store is read once, in whatever order its episodes are wanted.
        """
        rows = self if shape is None else self.resized(shape)
        row = rows.row_shape
        out = np.empty((len(self), *row), self.dtype) if out is None else out
        most = max(1, PIECE_BYTES // max(1, _size(row) * self.dtype.itemsize))
        for source, start, stop, places in rows.runs.by_source(most):
            there = _fits(source, row)
            piece = _fit(source.read(start, stop), row, self.dtype) if there else None
            for at, low, high in places:
                own = 0 if piece is None else piece[low - start : high - start]
                out[at : at + high - low] = own
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


def _sent(
    arrays: dict[tuple[Any, ...], np.ndarray],
    blocks: Sequence[tuple[tuple[Any, ...] | None, int]],
    shape: tuple[int, ...] | None,
    dtype: np.dtype,
) -> Rows:
    """What `Rows.__reduce__` sends."""
    sources, at = {key: Memory(a) for key, a in arrays.items()}, dict.fromkeys(arrays, 0)
    out: list[Block] = []
    for key, count in blocks:
        if key is None:
            out.append(Block(Absent(count), 0, count))
            continue
        out.append(Block(sources[key], at[key], at[key] + count))
        at[key] += count
    return Rows(out, shape, dtype)


def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64))


def _fits(source: Source, row: tuple[int, ...]) -> bool:
    """Whether rows of a source can be read as rows of this shape."""
    return (len(row) == 1 and len(source.shape) == 2) or tuple(source.shape[1:]) == row


def _fit(x: np.ndarray, row: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """(..., *own shape) to (..., *row): numbers cut off, or zeros added."""
    x = x.astype(dtype, copy=False)
    return pad(x[..., : row[0]], row[0]) if len(row) == 1 else x
