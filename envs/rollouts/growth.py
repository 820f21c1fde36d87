"""How much a process grew by what it cannot explain: a simulator that leaks."""

from __future__ import annotations

import os
from pathlib import Path

STATM = Path("/proc/self/statm")


def resident() -> int:
    """Bytes of this process in memory; 0 where the system does not say it."""
    try:
        return int(STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


class Growth:
    """Growth since the start, without what the most instances took when they were built and the
    most that recorded episodes ever took.
    """

    def __init__(self) -> None:
        self._explained = resident()
        self._built, self._most_built = 0, 0
        self._most_held = 0

    def built(self, before: int) -> None:
        """An instance was built; the process had `before` bytes then. One built in place of another
        explains nothing.
        """
        self._built += 1
        if self._built > self._most_built:
            self._most_built = self._built
            self._explained += max(0, resident() - before)

    def closed(self) -> None:
        """An instance was closed."""
        self._built -= 1

    def measure(self, held: int) -> int:
        """Bytes that it grew by while recorded episodes take `held`. 10 us."""
        self._most_held = max(self._most_held, held)
        return resident() - self._explained - self._most_held
