"""A fixed rate by absolute deadlines: a late tick does not shift the ones after it."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable

ROUNDING = 1e-9  # of a period
RECENT = 50  # ticks of which the live rate is taken


class Ticker:
    """Tick k begins at start + k / rate, whatever the ticks before it took.

    Work that lasts into the next tick has missed its deadline: that tick begins late, at once;
    ticks that have gone by entirely are left out. Both count in `missed`.

    Args:
        rate: ticks per second; None for as fast as possible, where nothing can be missed.
        clock, sleep: seconds, monotonic; those of a test.
    """

    def __init__(
        self,
        rate: float | None,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.period = 0.0 if rate is None else 1.0 / rate
        self.missed = 0
        self._clock, self._sleep = clock, sleep
        self._begun: deque[float] = deque(maxlen=RECENT)
        self._start, self._tick = 0.0, 0

    def start(self) -> None:
        """The first tick begins now."""
        self._start, self._tick = self._clock(), 0
        self._begun.clear()
        self._begun.append(self._start)

    def wait(self) -> int:
        """End this tick and return when the next one begins; the number of deadlines missed
        meanwhile.
        """
        now = self._clock()
        if self.period == 0.0:
            self._begun.append(now)
            return 0
        due = self._start + self._tick * self.period
        spent = (now - due) / self.period
        missed = max(0, math.ceil(spent - ROUNDING) - 1)
        self.missed += missed
        self._tick += max(1, int(spent + ROUNDING))
        left = self._start + self._tick * self.period - now
        if left > 0:
            self._sleep(left)
        self._begun.append(self._clock())
        return missed

    def left(self) -> float:
        """Seconds, more than 0, until the time at which a tick begins next, whether or not this one
        has missed others before.
        """
        left = self.period - (self._clock() - self._start) % self.period
        return left if left > ROUNDING * self.period else left + self.period

    @property
    def rate(self) -> float:
        """Ticks per second over the last ones; 0 before there are two."""
        begun = list(self._begun)  # in one step: another thread may ask
        if len(begun) < 2 or begun[-1] == begun[0]:
            return 0.0
        return (len(begun) - 1) / (begun[-1] - begun[0])
