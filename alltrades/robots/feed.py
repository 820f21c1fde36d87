"""Which of a robot's observations are new: sensors drop, repeat, delay and break them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from alltrades.data.interface import Interface, NotFinite
from alltrades.envs.robots.robot import Reading


class Feed:
    """Tells new observations from missing, repeated, late and unreadable ones, and counts each
    kind.

    An observation with a stamp is new when its stamp is above the last one's, late when it is
    below. Without one it is new unless it is the same array object with the same values: a robot at
    rest may send equal values for long.
    """

    def __init__(self, interface: Interface) -> None:
        self._interface = interface
        self.counts: Counter[str] = Counter()
        self.reset()

    def reset(self) -> None:
        """Forget the last observation; stamps may start anew."""
        self._stamp: float | None = None
        self._last: Any = None
        self._values: np.ndarray | None = None

    def take(self, given: np.ndarray | Reading | None) -> np.ndarray | None:
        """What a robot's `observe` gave -> a new observation (obs_dim,) float32, or None.

        Raises UserError for what can be none of the environment.
        """
        kind, values = self._judge(given)
        self.counts[kind] += 1
        return values if kind == "new" else None

    def _judge(self, given: Any) -> tuple[str, np.ndarray | None]:
        if given is None:
            return "missing", None
        stamp = given.stamp if isinstance(given, Reading) else None
        source = given.observation if isinstance(given, Reading) else given
        try:
            values = self._interface.check(source)  # a copy: the robot may reuse its buffer
        except NotFinite:
            return "unreadable", None
        if stamp is not None and stamp != stamp:
            return "unreadable", None
        if stamp is not None and self._stamp is not None and stamp <= self._stamp:
            return ("repeated" if stamp == self._stamp else "late"), None
        same = (
            self._values is not None
            and source is self._last
            and np.array_equal(values, self._values)
        )
        self._stamp, self._last, self._values = stamp, source, values
        return ("repeated", None) if stamp is None and same else ("new", values)
