"""`alltrades bench`: the hot paths, timed on this machine. Figures belong here, never in tests."""

from alltrades.bench.throughput import measure, rate

__all__ = ["measure", "rate"]
