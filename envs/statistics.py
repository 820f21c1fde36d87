"""Intervals of success rates and means, and paired comparisons."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Z95 = 1.959963984540054
EQUAL = 0.05  # an interval inside +-EQUAL, in the unit of what is compared, counts as SAME


def wilson(successes: int, n: int) -> tuple[float, float]:
    """Wilson score 95 % interval of a success probability (Wilson 1927); (0, 1) for n = 0."""
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}; expected 0 <= successes <= n")
    if n == 0:
        return 0.0, 1.0
    p, z2 = successes / n, Z95**2
    center = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    # at the ends the exact value is 0 or 1; rounding must not leave it
    return (0.0 if successes == 0 else center - half), (1.0 if successes == n else center + half)


def bootstrap_mean(groups: Sequence[np.ndarray], samples: int = 10_000, seed: int = 0) -> tuple[float, tuple[float, float]]:
    """Mean over groups of the group means, and its 95 % percentile interval under resampling within each group.

    O(samples x values) time; memory O(samples x largest group).
    """
    rng = np.random.default_rng(seed)
    total = np.zeros(samples)
    for values in groups:
        total += values[rng.integers(len(values), size=(samples, len(values)))].mean(axis=1)
    low, high = np.percentile(total / len(groups), [2.5, 97.5])
    return float(np.mean([g.mean() for g in groups])), (float(low), float(high))


def verdict(interval: tuple[float, float]) -> str:
    """BETTER or WORSE when the interval of a - b excludes 0, SAME when it lies within +-0.05, else UNDERPOWERED."""
    low, high = interval
    if low > 0:
        return "BETTER"
    if high < 0:
        return "WORSE"
    return "SAME" if -EQUAL <= low and high <= EQUAL else "UNDERPOWERED"


@dataclass(frozen=True)
class Paired:
    """Difference a - b of a result on common starts, mean over environments.

    `seeds` holds the difference of each pair where several training seeds were compared.
    """

    mean: float
    interval: tuple[float, float]
    per_environment: dict[str, dict[str, Any]]
    verdict: str
    n: int
    seeds: tuple[float, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {"mean": self.mean, "interval": list(self.interval), "verdict": self.verdict, "n": self.n,
                "seeds": list(self.seeds), "per_environment": self.per_environment}


def paired(differences: dict[str, np.ndarray], samples: int = 10_000, seed: int = 0, seeds: Sequence[float] = ()) -> Paired:
    """Bootstrap of per-start differences (n_k,) of each environment k, stratified by environment (environments are fixed).

    With several training seeds the difference of a start is its mean over them, and the verdict BETTER or WORSE also needs
    the same sign in every seed.
    """
    mean, interval = bootstrap_mean(list(differences.values()), samples, seed)
    each = {}
    for name, values in differences.items():
        own, own_interval = bootstrap_mean([values], samples, seed)
        each[name] = {"mean": own, "interval": list(own_interval), "verdict": verdict(own_interval)}
    word = verdict(interval)
    if word in ("BETTER", "WORSE") and any(np.sign(s) != np.sign(mean) for s in seeds):
        word = "UNDERPOWERED"
    return Paired(mean, interval, each, word, sum(len(v) for v in differences.values()), tuple(float(s) for s in seeds))
