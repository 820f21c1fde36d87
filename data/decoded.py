"""Images of stores as training takes them: decoded once, within a budget of disk."""

from __future__ import annotations

import shutil
import tempfile
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from alltrades.data.chunks import ChunkedArray
from alltrades.data.kept import Kept, Packed, packed_size
from alltrades.data.rows import Rows
from alltrades.data.sources import Source
from alltrades.data.steps import Steps

SHARE = 0.5  # of the disk that is free: the default budget
SAMPLE = 16  # rows by which it is estimated how small they become


class Decoded:
    """The images of one array of a store, as a source of rows.

    When they are first asked for, it is decided whether they are kept decoded, compressed one by
    one, or not at all, by what the budget leaves. Equal values in every case.

    Attributes:
        derived: further sources with a row for each of its own, such as features, by name.
    """

    def __init__(self, array: ChunkedArray, images: Images) -> None:
        self.array, self.shape, self.dtype = array, array.shape, array.dtype
        self.derived: dict[str, Source] = {}
        self._images = images
        self._source: Source | None = None
        self._lock = threading.Lock()

    @property
    def folder(self) -> Path:
        """Where files of what is derived belong."""
        return self._images.folder

    @property
    def source(self) -> Source:
        """Where its rows are read."""
        with self._lock:
            if self._source is None:
                self._source = self._images.place(self.array)
            return self._source

    def read(self, start: int, stop: int) -> np.ndarray:
        return self.source.read(start, stop)

    def take(self, index: np.ndarray) -> np.ndarray:
        return self.source.take(index)

    def derive(self, name: str, make: Callable[[], Source]) -> Source:
        """What is derived of this name, made where it is not there."""
        with self._lock:
            if name not in self.derived:
                self.derived[name] = make()
            return self.derived[name]


class Images:
    """The images of the stores of a run, decoded once for all trainings.

    Args:
        folder: of the files, which have no names and end with the process; default the system's for
            temporary files.
        budget: bytes of disk; default half of what is free. Where it is full, the arrays that were
            not asked for the longest are given up.
    """

    def __init__(self, folder: Path | None = None, budget: float | None = None) -> None:
        self._given, self._budget = folder, budget
        self._known: OrderedDict[tuple, Decoded] = OrderedDict()
        self._files: weakref.WeakSet[Kept] = weakref.WeakSet()
        self._lock = threading.RLock()

    @property
    def folder(self) -> Path:
        folder = Path(tempfile.gettempdir()) if self._given is None else self._given
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def of(self, steps: Steps) -> Steps:
        """The same steps, whose images are read from here where they are those of a store."""
        observation = {name: self._rows(rows) for name, rows in steps.observation.items()}
        return replace(steps, observation=observation)

    def _rows(self, rows: Rows) -> Rows:
        if not any(map(_is_image, rows.runs.sources)):
            return rows
        return rows.reading(lambda s: self._decoded(s) if _is_image(s) else s)

    def _decoded(self, array: Source) -> Decoded:
        assert isinstance(array, ChunkedArray)
        key = (array.row_shape, array.dtype.name, array.chunk, array.rows, array.checks)
        with self._lock:
            found = self._known.setdefault(key, Decoded(array, self))
            self._known.move_to_end(key)
            return found

    def place(self, array: ChunkedArray) -> Source:
        """A source of an array's rows that the budget allows."""
        size = int(np.prod(array.shape, dtype=np.int64)) * array.dtype.itemsize
        with self._lock:
            for kind, measure in ((Kept, lambda: size), (Packed, lambda: _packed(array))):
                needed = measure()
                if self._free(needed):
                    file = kind(
                        array.shape,
                        array.dtype,
                        array.chunk,
                        lambda start, _: array.read_chunk(start // array.chunk),
                        self.folder,
                        needed,
                    )
                    self._files.add(file)
                    return file
        return array

    def _free(self, needed: int) -> bool:
        """Make room for so many bytes, of arrays that nobody asks for any more; whether there is
        room.
        """
        budget = self._budget
        if budget is None:
            there = sum(f.held for f in self._files)
            budget = SHARE * (shutil.disk_usage(self.folder).free + there)
        if needed > budget:
            return False
        while (used := sum(f.needs for f in self._files)) + needed > budget:
            if not self._known:
                return False
            self._known.popitem(last=False)
        return used + needed <= budget


def _is_image(source: Source) -> bool:
    return isinstance(source, ChunkedArray) and len(source.shape) == 4


def _packed(array: ChunkedArray) -> int:
    """Estimate of an array's bytes with every row compressed by itself."""
    if not array.rows:
        return 0
    chunks = np.unique(np.linspace(0, array.chunks - 1, 3).round().astype(int))
    rows = np.concatenate(
        [array.read_chunk(int(i))[:: max(1, array.chunk // SAMPLE)] for i in chunks]
    )
    return int(1.1 * packed_size(rows) / len(rows) * array.rows)
