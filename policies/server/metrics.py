"""Counters of the server, and their form for Prometheus.

Text format: https://prometheus.io/docs/instrumenting/exposition_formats/ (version 0.0.4).
"""

from __future__ import annotations

import math
import os
import threading
import time
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0)
ROWS = (1, 2, 4, 8, 16, 32, 64)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Histogram:
    """Cumulative counts of values at most so large."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Metrics:
    """All counters of one server; `count` and `observe` may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._started = time.time()
        self._help: dict[str, tuple[str, str]] = {}
        self._values: dict[str, dict[str, float]] = {}  # name -> labels in text -> value
        self._histograms: dict[str, Histogram] = {}
        for name, text in (
            ("connections", "clients that connected"),
            ("requests", "requests answered, by outcome"),
            ("guard_refusals", "actions that the guard replaced, by reason"),
            ("starved", "replies that came after the client had used up its actions"),
            ("reloads", "artifacts loaded again, by outcome"),
        ):
            self._help[f"alltrades_{name}_total"] = ("counter", text)
            self._values[f"alltrades_{name}_total"] = {}
        for name, text, bounds in (
            ("request_seconds", "from a request's arrival to its reply", SECONDS),
            ("queue_seconds", "from a request's arrival to its policy call", SECONDS),
            ("infer_seconds", "duration of policy calls", SECONDS),
            ("batch_requests", "requests answered by one policy call", ROWS),
        ):
            self._help[f"alltrades_{name}"] = ("histogram", text)
            self._histograms[f"alltrades_{name}"] = Histogram(bounds)

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        """Add to counter `alltrades_<name>_total`."""
        text = ",".join(f'{key}="{escape(value)}"' for key, value in labels.items())
        with self._lock:
            values = self._values[f"alltrades_{name}_total"]
            values[text] = values.get(text, 0) + amount

    def observe(self, name: str, value: float) -> None:
        """Add a value to histogram `alltrades_<name>`."""
        with self._lock:
            self._histograms[f"alltrades_{name}"].add(value)

    def value(self, name: str, **labels: str) -> float:
        """Counter `alltrades_<name>_total`, summed over what the labels leave open."""
        wanted = [f'{key}="{escape(value)}"' for key, value in labels.items()]
        with self._lock:
            values = self._values[f"alltrades_{name}_total"]
            return sum(v for text, v in values.items() if all(w in text.split(",") for w in wanted))

    def render(self, gauges: dict[str, tuple[str, float]], labels: dict[str, str]) -> str:
        """Everything as text; `gauges` name -> (help, value) as they are now, `labels` of the info
        line.
        """
        lines: list[str] = []
        with self._lock:
            for name, (kind, text) in self._help.items():
                lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
                if kind == "counter":
                    values = self._values[name] or {"": 0}
                    lines += [
                        f"{name}{{{given}}} {number(v)}" if given else f"{name} {number(v)}"
                        for given, v in values.items()
                    ]
                    continue
                histogram, total = self._histograms[name], 0
                for bound, count in zip((*histogram.bounds, math.inf), histogram.counts):
                    total += count
                    lines.append(f'{name}_bucket{{le="{number(bound)}"}} {total}')
                lines += [f"{name}_sum {number(histogram.sum)}", f"{name}_count {total}"]
        now = {
            "process_resident_memory_bytes": (
                "memory of the server's process",
                float(resident_bytes()),
            ),
            "process_start_time_seconds": (
                "start of the server, in seconds since 1970",
                self._started,
            ),
        }
        for name, (text, value) in (gauges | now).items():
            lines += [f"# HELP {name} {text}", f"# TYPE {name} gauge", f"{name} {number(value)}"]
        given = ",".join(f'{key}="{escape(value)}"' for key, value in labels.items())
        lines += [
            "# HELP alltrades_policy_info the policy that is served",
            "# TYPE alltrades_policy_info gauge",
            f"alltrades_policy_info{{{given}}} 1",
        ]
        return "\n".join(lines) + "\n"


def escape(value: str) -> str:
    """A label's value as the format wants it."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def number(value: float) -> str:
    """A value as the format wants it."""
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) else repr(float(value))


def resident_bytes(pid: int | None = None) -> int:
    """Resident memory of a process, this one by default (Linux); 0 where the system does
    not say.
    """
    try:
        pages = int(Path(f"/proc/{pid or 'self'}/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
