"""Which of a robot's observations are new: sensors drop, repeat, delay and break them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from alltrades.data.fields import Observation
from alltrades.data.interface import Interface, NotFinite
from alltrades.envs.robots.robot import Reading


class Feed:
    """Tells new observations from missing, repeated, late and unreadable ones, and counts each
    kind.

    An observation with a stamp is new when its stamp is above the last one's, late when it is
    below. Without one it is new unless it is made of the same array objects with the same values: a
    robot at rest may send equal values for long.
    """

    def __init__(self, interface: Interface) -> None:
        self._interface = interface
        self.counts: Counter[str] = Counter()
        self.reset()

    def reset(self) -> None:
        """Forget the last observation; stamps may start anew."""
        self._stamp: float | None = None
        self._last: list[Any] = []
        self._values: Observation = {}

    def take(self, given: Any) -> Observation | None:
        """What a robot's `observe` gave (an observation, a `Reading` of one or None) -> the fields
        of a new observation, or None.

        Raises UserError for what can be none of the environment.
        """
        kind, values = self._judge(given)
        self.counts[kind] += 1
        return values if kind == "new" else None

    def _judge(self, given: Any) -> tuple[str, Observation | None]:
        if given is None:
            return "missing", None
        stamp = given.stamp if isinstance(given, Reading) else None
        source = given.observation if isinstance(given, Reading) else given
        try:
            values = self._interface.check(source)  # copies: the robot may reuse its buffers
        except NotFinite:
            return "unreadable", None
        if stamp is not None and stamp != stamp:
            return "unreadable", None
        if stamp is not None and self._stamp is not None and stamp <= self._stamp:
            return ("repeated" if stamp == self._stamp else "late"), None
        parts = list(source.values()) if isinstance(source, Mapping) else [source]
        same = (
            len(parts) == len(self._last)
            and all(a is b for a, b in zip(parts, self._last) if not isinstance(a, str))
            and all(np.array_equal(value, self._values[name]) for name, value in values.items())
        )
        self._stamp, self._last, self._values = stamp, parts, values
        return ("repeated", None) if stamp is None and same else ("new", values)
