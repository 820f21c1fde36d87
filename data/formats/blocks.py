"""Rows of long arrays, read in blocks: an episode is a slice of a block that is in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

BLOCK_BYTES = 2**25


class Blocks:
    """Rows of one array by a function that reads a range of them.

    Args:
        read: (start, stop) -> rows. rows: how many there are. row_bytes: of one.
    """

    def __init__(self, read: Callable[[int, int], Any], rows: int, row_bytes: int) -> None:
        self._fetch, self.rows = read, rows
        self.size = max(1, BLOCK_BYTES // max(1, row_bytes))
        self._start, self._block = 0, np.empty(0)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows start to stop; a block is read when they are not in the last one."""
        if not (self._start <= start and stop <= self._start + len(self._block)):
            self._start = start
            self._block = np.asarray(
                self._fetch(start, max(stop, min(start + self.size, self.rows)))
            )
        return self._block[start - self._start : stop - self._start]
