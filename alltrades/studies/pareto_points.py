"""Pareto fronts of measured points: preferences to try, domination, hypervolume. Larger is better
in every coordinate.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

MOST_COORDINATES = 5  # of an exact hypervolume, whose cost grows with points ** (coordinates - 1)


def lattice(count: int, divisions: int) -> np.ndarray:
    """All preferences (P, K) over `count` >= 2 environments whose entries are multiples of 1 /
    divisions (Das & Dennis 1998).

    For two environments: divisions + 1 equally spaced ones, from all on the second to all on the
    first.
    """
    bars = np.array(list(combinations(range(divisions + count - 1), count - 1)), dtype=int).reshape(
        -1, count - 1
    )
    edges = np.pad(bars, ((0, 0), (1, 1)), constant_values=((0, 0), (-1, divisions + count - 1)))
    return (np.diff(edges, axis=1) - 1) / divisions


def dominates(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether point a (K,) is at least as good as b (K,) everywhere and better somewhere."""
    return bool((a >= b).all() and (a > b).any())


def dominated(points: np.ndarray) -> np.ndarray:
    """(P,) whether another point dominates it. O(P^2 K)."""
    return covered(points, points)


def covered(points: np.ndarray, front: np.ndarray) -> np.ndarray:
    """(P,) whether a point of `front` (Q, K) dominates it; the mean is the coverage of Zitzler &
    Thiele 1999. O(P Q K).
    """
    return np.array(
        [any(dominates(other, point) for other in front) for point in points], dtype=bool
    )


def hypervolume(points: np.ndarray, reference: np.ndarray) -> float:
    """Volume of what the points (P, K) dominate above the reference (K,); by slicing along the last
    coordinate.
    """
    above = np.asarray(points, dtype=float) - reference
    return _volume(above[(above > 0).all(axis=1)])


def _volume(gains: np.ndarray) -> float:
    if not len(gains):
        return 0.0
    if gains.shape[1] == 1:
        return float(gains.max())
    gains = gains[np.argsort(-gains[:, -1], kind="stable")]
    heights = gains[:, -1] - np.append(gains[1:, -1], 0.0)
    return sum(
        height * _volume(gains[: i + 1, :-1]) for i, height in enumerate(heights) if height > 0
    )
