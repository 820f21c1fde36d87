"""Where the rows of a training live: in memory where they fit, else in a file or in the store."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Literal

import numpy as np

from alltrades.data.rows import Rows

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
    rows: Rows, width: int, folder: Path | None = None, storage: Storage | None = None
) -> Rows:
    """The rows (N, width) where training can take from them: the same values in every
    storage.

    Args:
        width: columns; zeros are added, or those beyond are cut off.
        folder: for the file, which has no name and ends with the process.
        storage: default `storage_for` their size.
    """
    size = len(rows) * width * rows.dtype.itemsize
    storage = storage_for(size, folder) if storage is None else storage
    if storage == "store" or size == 0:
        return rows.resized(width)
    if storage == "memory":
        return Rows.of(rows.load(width))
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        mapped = np.memmap(file, rows.dtype, "w+", shape=(len(rows), width))
        return Rows.of(np.asarray(rows.load(width, out=mapped)))


def available_memory() -> int:
    """Bytes that this machine can give without swapping."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
