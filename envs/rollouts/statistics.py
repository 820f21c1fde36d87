"""Intervals of success rates and means."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import ndtri, stdtrit  # scipy.stats takes a second to import


def wilson(successes: int, n: int) -> tuple[float, float]:
    """Wilson score 95 % interval of a success probability (Wilson 1927); (0, 1) for n = 0.

    Raises ValueError unless 0 <= successes <= n.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}; expected 0 <= successes <= n")
    if n == 0:
        return 0.0, 1.0
    p, z = successes / n, float(ndtri(0.975))
    center = (2 * n * p + z**2) / (2 * (n + z**2))
    half = z / (2 * (n + z**2)) * math.sqrt(4 * n * p * (1 - p) + z**2)
    return (center - half if successes else 0.0), (center + half if successes < n else 1.0)


def mean_interval(values: np.ndarray) -> tuple[float, float] | None:
    """Student's 95 % interval of the mean of values (n,); None for fewer than two."""
    if len(values) < 2:
        return None
    half = stdtrit(len(values) - 1, 0.975) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


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
    drawn = resampled_means(groups, samples, seed, bounds)
    return float(np.mean([g.mean() for g in groups])), interval_of(drawn)


def resampled_means(
    groups: Sequence[np.ndarray],
    samples: int,
    seed: int,
    bounds: tuple[float, float] | None = None,
) -> np.ndarray:
    """(samples,) means of resamples, as `bootstrap_mean` describes them."""
    rng = np.random.default_rng(seed)
    total = np.zeros(samples)
    for values in groups:
        total += values[rng.integers(len(values), size=(samples, len(values)))].mean(axis=1)
    if bounds is not None:
        unseen = np.minimum(rng.exponential(1 / min(map(len, groups)), samples), 1.0)
        total += unseen * (rng.choice(bounds, samples) - total / len(groups))
    return total / len(groups)


def interval_of(drawn: np.ndarray) -> tuple[float, float]:
    """95 % percentile interval of resamples."""
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)
