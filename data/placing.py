"""Where the rows of a training live: in memory where they fit, else in a file or in the store."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Literal

import numpy as np

from alltrades.data.decoded import Decoded
from alltrades.data.rows import Rows
from alltrades.data.runs import Runs
from alltrades.data.sources import Absent, Memory, Source

SHARE = 0.5  # of the memory that is free, which the rows of one training may fill
Storage = Literal["memory", "file", "store"]


def storage_for(size: int, folder: Path | None) -> Storage:
    """Where `size` bytes belong: in memory up to `SHARE` of what is free, else in a file in
    `folder`; without a folder they stay where they are.
    """
    if size <= SHARE * available_memory():
        return "memory"
    return "store" if folder is None else "file"


def placed(
    rows: Rows,
    shape: int | tuple[int, ...],
    folder: Path | None = None,
    storage: Storage | None = None,
) -> Rows:
    """The rows (N, *shape) where training can take from them: the same values in every storage.

    Args:
        shape: of a row. Numbers (D,) get zeros added, or those beyond are cut off. Of larger shapes
            only rows of that shape take space; others, which read as zeros, take none.
        folder: for the file, which has no name and ends with the process.
        storage: default `storage_for` their size.
    """
    rows = rows.resized(shape)
    size = size_to_place(rows)
    storage = storage_for(size, folder) if storage is None else storage
    if storage == "store" or size == 0:
        return rows
    present = rows.present()
    if storage == "memory":
        kept = present.load()
    else:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            mapped = np.memmap(file, rows.dtype, "w+", shape=present.shape)
            kept = np.asarray(present.load(out=mapped))
    if present is rows:
        return Rows.of(kept)
    there, lengths = np.array(rows.fitting)[rows.runs.source], rows.runs.lengths
    at = np.cumsum(lengths * there) - lengths * there  # where the kept rows of each run begin
    start = np.where(there, at, 0)
    sources: list[Source] = [Absent(len(rows)), Memory(kept)]
    runs = Runs(sources, there.astype(np.int64), start, start + lengths)
    return Rows(runs, rows.row_shape, rows.dtype)


def size_to_place(rows: Rows) -> int:
    """Bytes of rows that are to be placed; images that are decoded for a run stay where they
    are.
    """
    return 0 if any(isinstance(s, Decoded) for s in rows.runs.sources) else rows.nbytes


def available_memory() -> int:
    """Bytes that this machine can give without swapping."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
