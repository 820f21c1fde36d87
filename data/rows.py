"""Rows of arrays that need not be in memory: views of what is in memory, in files and in stores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np

from alltrades.data.layout import pad

PIECE_BYTES = 2**22  # of the pieces in which rows are streamed


class Source(Protocol):
    """What rows are read from."""

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


class Rows:
    """N rows of a field: blocks of sources one after another.

    Rows of one dimension, (d,), are zero-padded or cut to D. Of rows of more, such as images, only
    those of the shape that is asked for are read; others are zero, as those of `Absent` sources.

    Selecting and concatenating copy no row. Whatever reads (`take`, `load`, indexing, iteration)
    returns new arrays of `dtype`; one read of n rows costs O(n log blocks).

    Args:
        blocks: in order; sources have shape (., *row shape).
        shape: of a row; default the widest, or the one shape of more dimensions that there is.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        shape: int | tuple[int, ...] | None = None,
        dtype: Any = np.float32,
    ) -> None:
        self.blocks = _joined(blocks)
        self.dtype = np.dtype(dtype)
        self._shape = (shape,) if isinstance(shape, int) else shape
        lengths = [b.stop - b.start for b in self.blocks]
        self.offsets = np.cumsum([0, *lengths], dtype=np.int64)  # (blocks + 1,)

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
        return int(self.offsets[-1])

    @property
    def shapes(self) -> set[tuple[int, ...]]:
        """Row shapes of its sources."""
        found = (b.source for b in self.blocks if not isinstance(b.source, Absent))
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
        if self._shape is None and any(len(s) > 1 for s in self.shapes):
            sizes = [(b.stop - b.start) * _size(b.source.shape[1:]) for b in self.blocks]
        else:
            row = self.row_shape
            sizes = [(b.stop - b.start) * _size(row) for b in self.blocks if _fits(b.source, row)]
        return sum(sizes) * self.dtype.itemsize

    # ---- views -----------------------------------------------------------------------------------
    def resized(self, shape: int | tuple[int, ...]) -> Rows:
        """The rows with this shape: zeros are added to (D,), or what is beyond is cut off."""
        return Rows(self.blocks, shape, self.dtype)

    @property
    def fitting(self) -> list[bool]:
        """Of each block, whether its rows are read, and not zeros of another or no shape."""
        return [_fits(b.source, self.row_shape) for b in self.blocks]

    def present(self) -> Rows:
        """Only the rows that are read; itself where all are."""
        there = self.fitting
        if all(there):
            return self
        return Rows([b for b, t in zip(self.blocks, there) if t], self.row_shape, self.dtype)

    def only(self, dtype: Any) -> Rows:
        """The rows as those of a field whose images have this dtype: images of others are absent.
        Itself where there are none.
        """
        kind = np.dtype(dtype)
        if self._images <= {kind}:
            return self
        blocks = [
            Block(Absent(b.stop - b.start), 0, b.stop - b.start)
            if len(b.source.shape) > 2 and b.source.dtype != kind
            else b
            for b in self.blocks
        ]
        return Rows(blocks, self._shape, kind)

    @cached_property
    def _images(self) -> set[np.dtype]:
        """Dtypes of its sources that have rows of more dimensions."""
        return {b.source.dtype for b in self.blocks if len(b.source.shape) > 2}

    def reading(self, blocks: Sequence[Block]) -> Rows:
        """The same rows, read from other blocks."""
        return Rows(blocks, self._shape, self.dtype)

    def select(self, keep: np.ndarray) -> Rows:
        """The rows where the mask (N,) is true."""
        edges = np.flatnonzero(np.diff(np.concatenate([[False], keep, [False]]).astype(np.int8)))
        return Rows(
            [b for low, high in edges.reshape(-1, 2) for b in self._between(int(low), int(high))],
            self._shape,
            self.dtype,
        )

    @staticmethod
    def concatenate(parts: Sequence[Rows]) -> Rows:
        """All rows of `parts`, in order, of any shapes."""
        real = [p for p in parts if p.shapes] or list(parts)
        return Rows(
            [b for p in parts for b in p.blocks],
            dtype=np.result_type(*(p.dtype for p in real)),
        )

    def _between(self, start: int, stop: int) -> Iterator[Block]:
        first = int(np.searchsorted(self.offsets, start, side="right")) - 1
        while start < stop:
            block, offset = self.blocks[first], int(self.offsets[first])
            end = min(stop, int(self.offsets[first + 1]))
            yield Block(block.source, block.start + start - offset, block.start + end - offset)
            start, first = end, first + 1

    def __reduce__(self) -> tuple[Any, ...]:
        """For other processes: the rows alone, in memory, of sources of equal rows in one array."""
        arrays: dict[tuple[Any, ...], list[np.ndarray]] = {}
        blocks: list[tuple[tuple[Any, ...] | None, int]] = []  # array and number of rows
        for source, start, stop in self.blocks:
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
        for source, low, high in self._between(start, stop):
            if _fits(source, row):
                parts.append(_fit(source.read(low, high), row, self.dtype))
            else:
                parts.append(np.zeros((high - low, *row), self.dtype))
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def take(self, index: np.ndarray, shape: int | tuple[int, ...] | None = None) -> np.ndarray:
        """Rows (..., *shape) of an index (...).

        Raises IndexError for an index outside.
        """
        row = self.row_shape if shape is None else (shape,) if isinstance(shape, int) else shape
        if len(self.blocks) == 1:
            source, start, stop = self.blocks[0]
            whole = isinstance(source, Memory) and stop - start == len(source.array)
            if whole and _fits(source, row):
                assert isinstance(source, Memory)
                return _fit(source.array[index], row, self.dtype)
        index = np.asarray(index)
        flat = index.reshape(-1).astype(np.int64, copy=False)
        flat = np.where(flat < 0, flat + len(self), flat)
        if len(flat) and not (0 <= flat.min() and flat.max() < len(self)):
            raise IndexError(f"row {flat.min()} to {flat.max()} of {len(self)}")
        if len(self.blocks) == 1 and _fits(self.blocks[0].source, row):
            source, start, _ = self.blocks[0]
            out = _fit(source.take(flat + start if start else flat), row, self.dtype)
            return out.reshape(*index.shape, *row)
        out = np.zeros((len(flat), *row), self.dtype)
        of_row = np.searchsorted(self.offsets, flat, side="right") - 1
        order = np.argsort(of_row, kind="stable")
        present, first = np.unique(of_row[order], return_index=True)
        groups: dict[int, tuple[Source, list[np.ndarray], list[np.ndarray]]] = {}
        for i, rows in zip(present, np.split(order, first[1:])):
            block = self.blocks[i]
            if not _fits(block.source, row):
                continue
            group = groups.setdefault(id(block.source), (block.source, [], []))
            group[1].append(rows)
            group[2].append(flat[rows] - self.offsets[i] + block.start)
        for source, at, where in groups.values():
            out[np.concatenate(at)] = _fit(source.take(np.concatenate(where)), row, self.dtype)
        return out.reshape(*index.shape, *row)

    def pieces(self, size: int = PIECE_BYTES) -> Iterator[np.ndarray]:
        """All rows in order, as arrays (n, *shape) of about `size` bytes at most."""
        row = self.row_shape
        one = max(1, int(np.prod(row, dtype=np.int64)) * self.dtype.itemsize)
        rows = max(1, size // one)
        for source, start, stop in self.blocks:
            for low in range(start, stop, rows):
                high = min(low + rows, stop)
                if _fits(source, row):
                    yield _fit(source.read(low, high), row, self.dtype)
                else:
                    yield np.zeros((high - low, *row), self.dtype)

    def load(
        self, shape: int | tuple[int, ...] | None = None, out: np.ndarray | None = None
    ) -> np.ndarray:
        """All rows (N, *shape) in one array, `out` where it is given."""
        rows = self if shape is None else self.resized(shape)
        out = np.empty((len(self), *rows.row_shape), self.dtype) if out is None else out
        at = 0
        for piece in rows.pieces():
            out[at : at + len(piece)] = piece
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


def _fits(source: Source, row: tuple[int, ...]) -> bool:
    """Whether rows of a source can be read as rows of this shape."""
    return (len(row) == 1 and len(source.shape) == 2) or tuple(source.shape[1:]) == row


def _fit(x: np.ndarray, row: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """(..., *own shape) to (..., *row): numbers cut off, or zeros added."""
    x = x.astype(dtype, copy=False)
    return pad(x[..., : row[0]], row[0]) if len(row) == 1 else x
