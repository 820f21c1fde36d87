"""One array of a store on disk: Zarr 3 chunks of about 1 MB, checked whenever they are read.

The chunks are written and read here, by the Zarr 3 specification (codecs bytes, zstd, crc32c; any
Zarr library reads them), since an append touches a dozen arrays per environment and a library's
calls cost milliseconds each. Two checksums answer two questions: the one behind every chunk whether
its bytes are whole, the one that the store's commit keeps of the chunk's rows whether they are the
rows of this place, and not those of another chunk or of an append that was cut short.
"""

from __future__ import annotations

import functools
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numcodecs import Zstd

from alltrades.errors import UserError
from alltrades.system.refusals import not_written
from alltrades.system.remote.lease import Lease
from alltrades.system.remote.place import RemotePath

CHUNK_BYTES = 2**20  # of a chunk's rows, before compression
COLUMN_BYTES = 2**16  # the same of per-episode columns, of which there are many short ones
CACHED_BYTES = 2**24  # of decoded chunks kept by one store
WRITERS = 4  # threads that pack the chunks of all appends at once, and unpack those of a disk
MANY = 16  # chunks of a disk from which several threads unpack them
READERS = 8  # threads that read them from an object store
LEVEL, PICTURES = 0, 1  # of the compression: pictures are many, and level 1 takes half the time
_CODECS = {level: Zstd(level=level) for level in (LEVEL, PICTURES)}


class ChunkCache:
    """The chunks of a store that were read last, up to `limit` bytes; threads may share it.

    Attributes:
        lease: what lets this process write the store's chunks, where it is remote.
    """

    def __init__(self, limit: int = CACHED_BYTES, lease: Lease | None = None) -> None:
        self.limit, self.size, self.lease = limit, 0, lease
        self._lock = threading.Lock()
        self._chunks: OrderedDict[tuple[Path, int], np.ndarray] = OrderedDict()

    def get(self, key: tuple[Path, int]) -> np.ndarray | None:
        with self._lock:
            chunk = self._chunks.get(key)
            if chunk is not None:
                self._chunks.move_to_end(key)
            return chunk

    def put(self, key: tuple[Path, int], chunk: np.ndarray) -> None:
        with self._lock:
            if key not in self._chunks:
                self.size += chunk.nbytes
            self._chunks[key] = chunk
            while self.size > self.limit and len(self._chunks) > 1:
                self.size -= self._chunks.popitem(last=False)[1].nbytes


@dataclass(frozen=True)
class ChunkedArray:
    """Rows of one array, as a store's commit describes it.

    Attributes:
        path: the array's folder.
        row_shape, dtype: of one row, and of its numbers.
        chunk: rows of a chunk.
        rows: committed rows N; what lies beyond them on disk does not exist.
        checks: CRC-32C of the committed rows of each chunk, in C order.
        cache: where decoded chunks are kept.

    Raises UserError from every reading method when a file is missing or is not what was written.
    """

    path: Path
    row_shape: tuple[int, ...]
    dtype: np.dtype
    chunk: int
    rows: int
    checks: tuple[int, ...]
    cache: ChunkCache

    @classmethod
    def empty(
        cls,
        path: Path,
        row_shape: Sequence[int],
        dtype: str,
        cache: ChunkCache,
        size: int = CHUNK_BYTES,
    ) -> ChunkedArray:
        """An array without rows, with chunks of about `size` bytes; nothing is written."""
        kind = np.dtype(dtype)
        return cls(path, tuple(row_shape), kind, chunk_rows(row_shape, kind, size), 0, (), cache)

    @classmethod
    def from_json(cls, path: Path, facts: dict[str, Any], cache: ChunkCache) -> ChunkedArray:
        """The array that `to_json` described."""
        rows, checks = int(facts["rows"]), tuple(int(c) for c in facts["checks"])
        array = cls(
            path,
            tuple(facts["shape"]),
            np.dtype(facts["dtype"]),
            int(facts["chunk"]),
            rows,
            checks,
            cache,
        )
        if len(checks) != array.chunks:
            raise UserError(
                f"{path}: {len(checks)} chunks are described; expected {array.chunks} for {rows} "
                "rows; restore the store from a copy"
            )
        return array

    def to_json(self) -> dict[str, Any]:
        """How the commit describes it."""
        return {
            "rows": self.rows,
            "shape": list(self.row_shape),
            "dtype": self.dtype.name,
            "chunk": self.chunk,
            "checks": list(self.checks),
        }

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.rows, *self.row_shape)

    @property
    def chunks(self) -> int:
        """Number of chunks that hold rows."""
        return -(-self.rows // self.chunk)

    # ---- reading ---------------------------------------------------------------------------------
    def check_description(self) -> None:
        """Raises UserError unless the array's zarr.json describes it as the commit does."""
        file = self.path / "zarr.json"

        def check(stored: bytes) -> None:
            if not self._described_by(stored):
                raise UserError(
                    f"{file}: missing or changed; expected the description of {self.rows} rows of "
                    f"{self.row_shape} {self.dtype}; restore it from a copy"
                )

        try:
            if isinstance(file, RemotePath):
                file.read_as(f"{self.rows} rows", check)
            else:
                check(file.read_bytes())
        except OSError:
            check(b"")

    def _described_by(self, stored: bytes) -> bool:
        head = f'{{"shape": {json.dumps(list(self.shape))}, '.encode()
        kind = self.chunk, self.row_shape, self.dtype.name
        if stored.startswith(head) and stored[len(head) :] in _written(*kind):
            return True  # as it is written here, which is most of them
        try:
            found = json.loads(stored)
            shape = found.pop("shape")
            known = [_description(*kind, level) for level in _CODECS]  # pictures had LEVEL once
            same = found in known and shape[1:] == list(self.row_shape)
            return same and isinstance(shape[0], int) and shape[0] >= self.rows
        except (ValueError, AttributeError, KeyError, TypeError, IndexError):
            return False

    def read(self, start: int, stop: int) -> np.ndarray:
        """(stop - start, *row_shape). Reads the chunks that hold these rows, and no others."""
        out = np.empty((stop - start, *self.row_shape), self.dtype)
        numbers = range(start // self.chunk, -(-stop // self.chunk))
        chunks = self._read_chunks(numbers)
        for first in range(numbers.start * self.chunk, stop, self.chunk):
            low, high = max(start, first), min(stop, first + self.chunk)
            out[low - start : high - start] = next(chunks)[low - first : high - first]
        return out

    def take(self, index: np.ndarray) -> np.ndarray:
        """Rows (n, *row_shape) of an index (n,)."""
        out = np.empty((len(index), *self.row_shape), self.dtype)
        of_row = index // self.chunk
        numbers = [int(i) for i in np.unique(of_row)]
        chunks = self._read_chunks(numbers)
        for i in numbers:
            here = np.flatnonzero(of_row == i)
            out[here] = next(chunks)[index[here] - i * self.chunk]
        return out

    def _read_chunks(self, numbers: Sequence[int]) -> Iterator[np.ndarray]:
        """Chunks one after another. Far ones, and the many of an index, are asked for beside one
        another, a few at a time; rows of a disk that stand together are not, since every thread
        keeps memory.
        """
        far = isinstance(self.path, RemotePath)
        if len(numbers) < (2 if far else MANY):
            for i in numbers:
                yield self.read_chunk(i)
            return
        pool, most = (_readers(), READERS) if far else (_packers(), WRITERS)
        for low in range(0, len(numbers), most):
            yield from pool.map(self.read_chunk, numbers[low : low + most])

    def read_chunk(self, i: int) -> np.ndarray:
        """The committed rows of chunk i, checked."""
        file = self._file(i)
        key = (file, self.checks[i])
        found = self.cache.get(key)
        if found is not None:
            return found
        self.check_description()

        def checked(stored: bytes) -> np.ndarray:
            return self._checked(i, stored)

        try:
            if isinstance(file, RemotePath):
                chunk = file.read_as(f"{self.checks[i]:08x}", checked)
            else:
                chunk = checked(file.read_bytes())
        except OSError as error:
            raise UserError(
                f"{file}: cannot be read ({error.strerror}); expected rows of the store; restore "
                "it from a copy"
            ) from error
        self.cache.put(key, chunk)
        return chunk

    def _checked(self, i: int, stored: bytes) -> np.ndarray:
        """The committed rows of chunk i out of what is stored of it."""
        rows = min(self.chunk, self.rows - i * self.chunk)
        chunk = _decode(self._file(i), stored, (self.chunk, *self.row_shape), self.dtype)
        if rows < self.chunk:
            chunk = chunk[:rows].copy()  # a view would keep the whole chunk in memory
        if google_crc32c.value(chunk) != self.checks[i]:
            raise UserError(
                f"{self._file(i)}: not the rows that were written there; expected those of the "
                "commit; restore the store from a copy"
            )
        return chunk

    def _file(self, i: int) -> Path:
        return self.path / "/".join(["c", str(i), *("0" for _ in self.row_shape)])

    # ---- writing ---------------------------------------------------------------------------------
    def extended(self, value: np.ndarray) -> ChunkedArray:
        """The array with the rows of `value` (n, *row_shape) behind its own, which are on disk when
        this returns and count when the store commits. O(n) and one chunk.
        """
        value = np.ascontiguousarray(value, self.dtype)
        stop, first = self.rows + len(value), self.rows // self.chunk
        numbers = range(first, -(-stop // self.chunk))

        def pack(i: int) -> int:
            return self._pack(i, value)

        if len(numbers) > 1:
            added = list(_packers().map(pack, numbers))
        else:
            added = [pack(i) for i in numbers]
        array = replace(self, rows=stop, checks=(*self.checks[:first], *added))
        facts = {"shape": list(array.shape)} | _description(
            self.chunk, self.row_shape, self.dtype.name, _level(self.row_shape)
        )
        _write(self.path / "zarr.json", json.dumps(facts).encode(), self.cache.lease)
        return array

    def _pack(self, i: int, value: np.ndarray) -> int:
        """Write chunk i with what of the rows behind this array's own belongs there; its check."""
        start = max(self.rows, i * self.chunk)
        held = start - i * self.chunk
        new = value[start - self.rows : (i + 1) * self.chunk - self.rows]
        chunk = np.zeros((self.chunk, *self.row_shape), self.dtype)
        if held:
            chunk[:held] = self.read_chunk(i)
        chunk[held : held + len(new)] = new
        data = _CODECS[_level(self.row_shape)].encode(chunk)
        check = google_crc32c.value(data).to_bytes(4, "little")
        _write(self._file(i), data + check, self.cache.lease)
        return int(google_crc32c.extend(self.checks[i] if held else 0, new))


def chunk_rows(row_shape: Sequence[int], dtype: np.dtype, size: int = CHUNK_BYTES) -> int:
    """Rows of a chunk of about `size` bytes."""
    row = max(1, int(np.prod(row_shape, dtype=np.int64)) * dtype.itemsize)
    return max(1, size // row)


def write_group(path: Path, cache: ChunkCache) -> None:
    """The zarr.json of a group in the store of a cache."""
    facts = {"attributes": {}, "zarr_format": 3, "node_type": "group"}
    _write(path / "zarr.json", json.dumps(facts).encode(), cache.lease)


@functools.cache
def _packers() -> ThreadPoolExecutor:
    """One set of threads for all arrays: each takes memory for a chunk and its stack."""
    return ThreadPoolExecutor(WRITERS, "pack")


def _level(row_shape: tuple[int, ...]) -> int:
    return PICTURES if len(row_shape) == 3 else LEVEL


def _description(chunk: int, row_shape: tuple[int, ...], dtype: str, level: int) -> dict[str, Any]:
    """The content of zarr.json but for the shape, which grows before the commit does."""
    fills: dict[str, Any] = {"f": 0.0, "b": False}
    return {
        "data_type": dtype,
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": [chunk, *row_shape]},
        },
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": fills.get(np.dtype(dtype).kind, 0),
        "codecs": [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "zstd", "configuration": {"level": level, "checksum": False}},
            {"name": "crc32c"},
        ],
        "attributes": {},
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }


@functools.lru_cache(maxsize=64)
def _written(chunk: int, row_shape: tuple[int, ...], dtype: str) -> tuple[bytes, ...]:
    """What may stand in a zarr.json behind the shape, byte by byte: arrays of one kind share it."""
    kinds = (_description(chunk, row_shape, dtype, level) for level in _CODECS)
    return tuple(json.dumps(kind).encode()[1:] for kind in kinds)


def _decode(file: Path, stored: bytes, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    data, size = stored[:-4], int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    try:
        if google_crc32c.value(data) != int.from_bytes(stored[-4:], "little"):
            raise ValueError("its checksum differs")
        values = _CODECS[LEVEL].decode(data)  # of any level
        if len(values) != size:
            raise ValueError(f"{len(values)} bytes of rows, not {size}")
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"{file}: damaged ({error}); expected what was written; restore it from a copy"
        ) from error
    return np.frombuffer(values, dtype).reshape(shape)


@functools.cache
def _readers() -> ThreadPoolExecutor:
    """One set of threads that wait for chunks from object stores."""
    return ThreadPoolExecutor(READERS, "chunks")


def _write(path: Path, data: bytes, lease: Lease | None) -> None:
    """By rename, so that readers see the old or the new file; the commit is what is synced."""
    if lease is not None:
        lease.put(str(path), data)
        return
    partial = f"{path.parent}/.{path.name}.partial"
    try:
        try:
            file = open(partial, "wb")
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = open(partial, "wb")
        with file:
            file.write(data)
        os.replace(partial, path)
    except OSError as error:
        with suppress(OSError):
            os.unlink(partial)
        raise not_written(path, error) from error
