"""What the server knows of each connected client."""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from alltrades.data.fields import Observation

RECENT = 256  # requests of which the latency is remembered
ACTIVE = 1.0  # seconds after its last request for which another one is expected of a client
FEW = 3  # replies of an episode that a robot can leave and be back where it started
SETTLE = 1.0  # seconds that it needs for that at least


@dataclass(eq=False)
class Session:
    """One client: its lane in the controller, its episode, its counters.

    `texts` are those of the episode; `backlog` holds frames that came while the robot was held and
    that the policy has not seen; `last` is the action of this episode that will have been executed
    last, as far as can be known; `replies` counts those of this episode; `guarded` counts chunks of
    which the guard replaced actions, by reason. Times are those of `time.perf_counter`, in seconds.
    """

    id: int
    lane: int
    address: str
    connection: Any
    since: float = field(default_factory=time.perf_counter)
    environment: str | None = None
    texts: dict[str, str] = field(default_factory=dict)
    backlog: list[Observation] = field(default_factory=list)
    last: np.ndarray | None = None
    replied: float = 0.0  # last reply
    replies: int = 0
    busy: bool = False
    sending: float = 0.0  # since when a reply is on its way out; 0 for none
    over: bool = False  # its lane may be another's
    seen: float = 0.0  # last request
    allowance: float = 0.0  # requests that the rate limit allows at `refilled`
    refilled: float = 0.0
    requests: int = 0
    refused: int = 0
    guarded: Counter[str] = field(default_factory=Counter)
    starved: int = 0
    held: bool = False
    previous: float = 0.0  # duration of the request before, its sending included
    latencies: deque[tuple[float, float]] = field(
        default_factory=lambda: deque(maxlen=RECENT)
    )  # (end, seconds)

    def allowed(self, rate: float, now: float) -> bool:
        """Whether a request at `now` is within `rate` per second (a token bucket of one second's
        requests).
        """
        if rate <= 0:
            return True
        burst = max(1.0, rate)
        filled = (
            burst
            if not self.refilled
            else min(burst, self.allowance + rate * (now - self.refilled))
        )
        self.refilled = now
        self.allowance = filled - 1.0 if filled >= 1.0 else filled
        return filled >= 1.0

    def late(self, now: float, had: int, control_hz: float | None, begins: bool) -> bool:
        """Note a reply at `now`; True when the `had` actions of the one before were used up for
        over a control period, where its length is known.
        """
        going = not begins and self.replied > 0 and control_hz is not None
        starved = going and now > self.replied + (had + 1) / (control_hz or 1.0)
        self.replied = now
        self.replies += 1
        return starved

    def hurries(self, now: float, lasts: float) -> bool:
        """Whether an episode that starts at `now` follows so closely on one of few replies that its
        robot cannot have gone anywhere but where it was sent; a chunk is executed for `lasts`
        seconds at most.
        """
        return 0 < self.replies < FEW and now < self.replied + lasts + SETTLE

    def status(self, now: float) -> dict[str, Any]:
        """The client in plain values, for the operator's page; latencies in milliseconds, rate in
        requests/s.
        """
        recent = [(end, spent) for end, spent in list(self.latencies) if now - end < 5.0]
        spent = np.array([s for _, s in recent]) * 1e3
        length = max(1e-3, now - recent[0][0]) if recent else 1.0
        return {
            "id": self.id,
            "address": self.address,
            "environment": self.environment,
            "seconds": now - self.since,
            "rate": len(recent) / length if len(recent) > 1 else 0.0,
            "p50_ms": float(np.percentile(spent, 50)) if len(spent) else None,
            "p95_ms": float(np.percentile(spent, 95)) if len(spent) else None,
            "requests": self.requests,
            "refused": self.refused,
            "guarded": self.guarded.total(),
            "starved": self.starved,
            "held": self.held,
            "last_action": _plain(self.last),
        }


def _plain(action: np.ndarray | None) -> list[float | None] | None:
    """For JSON, which has no NaN: without the guard an action may hold one."""
    return None if action is None else [float(x) if np.isfinite(x) else None for x in action]


class Sessions:
    """The connected clients, and the free lanes."""

    def __init__(self, lanes: int) -> None:
        self._free = list(range(lanes))[::-1]
        self._by_lane: dict[int, Session] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self._by_lane)

    def all(self) -> list[Session]:
        return list(self._by_lane.values())

    @property
    def full(self) -> bool:
        return not self._free

    def at(self, address: str) -> int:
        """Connected clients of one address."""
        return sum(s.address == address for s in self.all())

    def open(self, address: str, connection: Any) -> Session | None:
        """A session with a lane of its own, or None when no lane is free."""
        if not self._free:
            return None
        self._count += 1
        session = Session(self._count, self._free.pop(), address, connection)
        self._by_lane[session.lane] = session
        return session

    def close(self, session: Session) -> None:
        session.over = True
        del self._by_lane[session.lane]
        self._free.append(session.lane)

    def active(self, now: float) -> int:
        """Clients of which a request is in hand or was seen a moment ago."""
        return sum(now - s.seen < ACTIVE for s in self.all())
