"""Lines about what strangers do to a server: one a minute for each address, whatever they do."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

PERIOD = 60.0  # seconds
REMEMBERED = 1024  # addresses; beyond that the one that was quiet for longest is forgotten


@dataclass
class _Noted:
    said: float = -float("inf")  # when the last line was
    count: int = 0  # since then


class Notices:
    """Logs the first of what an address does, and then at most one line in `PERIOD` seconds, with
    how often it was since the last line. From any thread; memory is bounded whatever comes.

    Args:
        log: where the lines go.
        clock: seconds, never going back.
    """

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._log, self._clock = log, clock
        self._lock = threading.Lock()
        self._noted: OrderedDict[tuple[str, str], _Noted] = OrderedDict()

    def add(self, address: str, what: str, least: int = 1) -> None:
        """Note that `address` did `what` once more; nothing is said before the `least`-th time."""
        with self._lock:
            now, noted = self._clock(), self._of(address, what)
            noted.count += 1
            if now - noted.said < PERIOD or noted.count < least:
                return
            total, noted.said, noted.count = noted.count, now, 0
        self._log.warning(
            "%s: %s (%d since the last such line; at most one a minute)", address, what, total
        )

    def allow(self, address: str, what: str, most: int) -> bool:
        """Whether a line of its own about what `address` did is one of the first `most` in a
        period.
        """
        with self._lock:
            now, noted = self._clock(), self._of(address, what)
            if now - noted.said >= PERIOD:
                noted.said, noted.count = now, 0
            noted.count += 1
            return noted.count <= most

    def _of(self, address: str, what: str) -> _Noted:
        noted = self._noted.pop((address, what), None) or _Noted()
        self._noted[address, what] = noted
        if len(self._noted) > REMEMBERED:
            self._noted.popitem(last=False)
        return noted
