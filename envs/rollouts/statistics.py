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


def bootstrap_mean(
    groups: Sequence[np.ndarray],
    samples: int = 10_000,
    seed: int = 0,
    bounds: tuple[float, float] | None = None,
) -> tuple[float, tuple[float, float]]:
    """Mean over groups of the group means, and its 95 % percentile interval under resampling within
    each group.

    Resampling knows of no value that did not occur: of four equal values it makes an interval of
    width 0. With `bounds`, the smallest and the largest value that can occur, every resample also
    gives weight to one of them, by the rule of three: values of total probability q, over all
    groups, stay unseen in n draws of each with probability at most exp(-n q), so q is drawn from
    the exponential law of mean 1 / n, n being the size of the smallest group. Without bounds
    nothing is added.

    O(samples x values) time; memory O(samples x largest group).
    """
    rng = np.random.default_rng(seed)
    total = np.zeros(samples)
    for values in groups:
        total += values[rng.integers(len(values), size=(samples, len(values)))].mean(axis=1)
    if bounds is not None:
        unseen = np.minimum(rng.exponential(1 / min(map(len, groups)), samples), 1.0)
        total += unseen * (rng.choice(bounds, samples) - total / len(groups))
    low, high = np.percentile(total / len(groups), [2.5, 97.5])
    return float(np.mean([g.mean() for g in groups])), (float(low), float(high))


def verdict(interval: tuple[float, float], agreed: bool = True) -> str:
    """BETTER or WORSE when the interval of a - b excludes 0, else SAME when it lies within +-0.05,
    else UNDERPOWERED.

    Where training seeds have not `agreed` in the sign it is neither BETTER nor WORSE.
    """
    low, high = interval
    if agreed and low > 0:
        return "BETTER"
    if agreed and high < 0:
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
        return {
            "mean": self.mean,
            "interval": list(self.interval),
            "verdict": self.verdict,
            "n": self.n,
            "seeds": list(self.seeds),
            "per_environment": self.per_environment,
        }


def paired(
    differences: dict[str, np.ndarray],
    samples: int = 10_000,
    seed: int = 0,
    seeds: Sequence[float] = (),
    bounds: tuple[float, float] | None = None,
) -> Paired:
    """Bootstrap of per-start differences (n_k,) of each environment k, stratified by environment
    (environments are fixed).

    With several training seeds the difference of a start is its mean over them, and the verdict
    BETTER or WORSE also needs the same sign in every seed. `bounds`: of a difference, where they
    are known (see `bootstrap_mean`).
    """
    mean, interval = bootstrap_mean(list(differences.values()), samples, seed, bounds)
    each = {}
    for name, values in differences.items():
        own, own_interval = bootstrap_mean([values], samples, seed, bounds)
        each[name] = {"mean": own, "interval": list(own_interval), "verdict": verdict(own_interval)}
    word = verdict(interval, all(np.sign(s) == np.sign(mean) for s in seeds))
    return Paired(
        mean,
        interval,
        each,
        word,
        sum(len(v) for v in differences.values()),
        tuple(float(s) for s in seeds),
    )
