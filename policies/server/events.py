"""What happened lately, for the operator's page."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any

KEPT = 100
SHOWN, SHOWN_REPEATED = 30, 10


class Events:
    """The last events, of which those that repeat are counted, so that they never push out the
    others. From any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._once: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._repeated: dict[tuple[str, int | None], dict[str, Any]] = {}  # the latest one last

    def add(self, kind: str, text: str, client: int | None = None) -> None:
        """Note something; `client` is the id of the robot that it is about."""
        with self._lock:
            self._once.append({"time": time.time(), "kind": kind, "text": text, "client": client})

    def repeat(self, kind: str, what: str, count: int, client: int | None) -> None:
        """Note something that may happen with every chunk: `count` more of it, in one event for
        each kind and client.
        """
        with self._lock:
            before = self._repeated.pop((kind, client), {"count": 0})
            total = before["count"] + count
            self._repeated[kind, client] = {
                "time": time.time(),
                "kind": kind,
                "text": f"{total} {what}",
                "client": client,
                "count": total,
            }
            if len(self._repeated) > KEPT:
                del self._repeated[next(iter(self._repeated))]

    def latest(self) -> list[dict[str, Any]]:
        """Those to show, oldest first."""
        with self._lock:
            return sorted(
                [*self._once][-SHOWN:] + [*self._repeated.values()][-SHOWN_REPEATED:],
                key=lambda e: e["time"],
            )
