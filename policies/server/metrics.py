"""Counters of one server, for its own page and for Prometheus."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from alltrades.policies.client.messages import require
from alltrades.policies.control.guard import REASONS

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0)
ROWS = (1, 2, 4, 8, 16, 32, 64)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# name -> (help, label and its values)
COUNTERS: dict[str, tuple[str, dict[str, tuple[str, ...]]]] = {
    "connections": ("clients that connected", {}),
    "requests": (
        "requests answered, by outcome",
        {"outcome": ("answered", "held", "refused", "failed")},
    ),
    "guard_refusals": ("actions that the guard replaced, by reason", {"reason": REASONS}),
    "unfinite_answers": ("chunks of the policy that were not finite, before the guard", {}),
    "starved": ("replies that came after the client had used up its actions", {}),
    "reloads": ("artifacts loaded again, by outcome", {"outcome": ("taken", "refused")}),
}
HISTOGRAMS = {
    "request_seconds": ("from a request's arrival to its reply", SECONDS),
    "queue_seconds": ("from a request's arrival to its policy call", SECONDS),
    "infer_seconds": ("duration of policy calls", SECONDS),
    "batch_requests": ("requests answered by one policy call", ROWS),
}


class Metrics:
    """All counters of one server; `count` and `observe` may be called from any thread."""

    def __init__(self) -> None:
        prometheus: Any = require("prometheus_client")
        self._text = prometheus.generate_latest
        self._registry = prometheus.CollectorRegistry()
        self._counters: dict[str, Any] = {}
        for name, (text, labels) in COUNTERS.items():
            counter = prometheus.Counter(
                f"alltrades_{name}", text, list(labels), registry=self._registry
            )
            for label, values in labels.items():  # all of them are there from the start, as 0
                for value in values:
                    counter.labels(**{label: value})
            self._counters[name] = counter
        self._histograms = {
            name: prometheus.Histogram(
                f"alltrades_{name}", text, buckets=(*bounds, math.inf), registry=self._registry
            )
            for name, (text, bounds) in HISTOGRAMS.items()
        }
        self._gauges: dict[str, Any] = {}
        self._gauge, self._info = (
            prometheus.Gauge,
            prometheus.Info(
                "alltrades_policy", "the policy that is served", registry=self._registry
            ),
        )
        prometheus.ProcessCollector(registry=self._registry)

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        """Add to counter `alltrades_<name>_total`."""
        counter = self._counters[name]
        (counter.labels(**labels) if labels else counter).inc(amount)

    def observe(self, name: str, value: float) -> None:
        """Add a value to histogram `alltrades_<name>`."""
        self._histograms[name].observe(value)

    def value(self, name: str, **labels: str) -> float:
        """Counter `alltrades_<name>_total`, summed over what the labels leave open."""
        return sum(
            sample.value
            for family in self._counters[name].collect()
            for sample in family.samples
            if sample.name.endswith("_total") and labels.items() <= sample.labels.items()
        )

    def render(self, gauges: dict[str, tuple[str, float]], labels: dict[str, str]) -> str:
        """Everything as text; `gauges` name -> (help, value) as they are now, `labels` of the info
        line.
        """
        for name, (text, value) in gauges.items():
            if name not in self._gauges:
                self._gauges[name] = self._gauge(name, text, registry=self._registry)
            self._gauges[name].set(value)
        self._info.info(labels)
        return self._text(self).decode()

    def collect(self) -> Iterator[Any]:
        """What is told: everything but when each counter was made."""
        for family in self._registry.collect():
            family.samples = [s for s in family.samples if not s.name.endswith("_created")]
            yield family
