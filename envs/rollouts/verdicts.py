"""Paired comparisons and what may be said of them.

Two spreads count: that of starts (for the networks that were trained) and that of training seeds
(for networks trained anew). A verdict needs both intervals, hence the wider one, and in a table of
several pairs it is corrected for their number (Holm 1979).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from scipy.special import stdtr, stdtrit  # scipy.stats takes a second to import

from alltrades.envs.rollouts.statistics import interval_of, resampled_means

ALPHA = 0.05
EQUAL = 0.05  # an interval inside +-EQUAL, in the unit of what is compared, counts as SAME
Interval = tuple[float, float]


def verdict(interval: Interval, over_seeds: Interval | None = None, equal: float = EQUAL) -> str:
    """What the 95 % intervals of a - b say, over starts and, where it is known, over training
    seeds.

    BETTER or WORSE: both exclude 0. SEEDS DISAGREE: the one over starts excludes 0, that over
    training seeds does not. SAME: both lie within +-`equal`. UNDERPOWERED: none of these.
    """
    low, high = interval
    widest = interval if over_seeds is None else (min(low, over_seeds[0]), max(high, over_seeds[1]))
    if widest[0] > 0:
        return "BETTER"
    if widest[1] < 0:
        return "WORSE"
    if -equal <= widest[0] and widest[1] <= equal:
        return "SAME"
    return "SEEDS DISAGREE" if low > 0 or high < 0 else "UNDERPOWERED"


@dataclass(frozen=True)
class Paired:
    """Difference a - b of a result on common starts, mean over environments.

    interval: 95 %, over starts. seeds: the difference of each training seed, where several were
    compared; seed_interval: 95 % over training seeds, by Student's t. p: the larger of both tests'
    two-sided p; p_holm: corrected for the number of pairs in its table.
    """

    mean: float
    interval: Interval
    per_environment: dict[str, dict[str, Any]]
    verdict: str
    n: int
    p: float
    seeds: tuple[float, ...] = ()
    seed_interval: Interval | None = None
    p_holm: float | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def paired(
    differences: Mapping[str, np.ndarray],
    samples: int = 10_000,
    seed: int = 0,
    seeds: Sequence[float] = (),
    bounds: Interval | None = None,
    equal: Mapping[str, float] | None = None,
) -> Paired:
    """Bootstrap of per-start differences (n_k,) of each environment k, stratified by environment
    (environments are fixed).

    With several training seeds the difference of a start is its mean over them, and `seeds` those
    of each. `bounds`: of a difference, where they are known (see `bootstrap_mean`). `equal`: by
    environment, the difference that counts as none.
    """
    groups, same = list(differences.values()), dict(equal or {})
    mean = float(np.mean([g.mean() for g in groups]))
    drawn = resampled_means(groups, samples, seed, bounds)
    interval, tail = interval_of(drawn), min((drawn <= 0).mean(), (drawn >= 0).mean())
    p = min(1.0, max(2 * float(tail), 2 / samples))
    each = {}
    for name, values in differences.items():
        own = interval_of(resampled_means([values], samples, seed, bounds))
        word = verdict(own, equal=same.get(name, EQUAL))
        each[name] = {"mean": float(values.mean()), "interval": own, "verdict": word}
    over_seeds = None
    if len(seeds) > 1:
        over_seeds = seed_interval(seeds)
        p = max(p, seed_p(seeds))
    return Paired(
        mean,
        interval,
        each,
        verdict(interval, over_seeds, float(np.mean([same.get(n, EQUAL) for n in differences]))),
        sum(map(len, groups)),
        p,
        tuple(map(float, seeds)),
        over_seeds,
    )


def seed_interval(seeds: Sequence[float]) -> Interval:
    """Student's 95 % interval of the mean over training seeds (two or more)."""
    x = np.asarray(seeds, dtype=float)
    half = stdtrit(len(x) - 1, 1 - ALPHA / 2) * x.std(ddof=1) / np.sqrt(len(x))
    return float(x.mean() - half), float(x.mean() + half)


def seed_p(seeds: Sequence[float]) -> float:
    """Two-sided p of "the mean over training seeds is 0" by Student's t."""
    x = np.asarray(seeds, dtype=float)
    spread = x.std(ddof=1)
    if spread == 0:
        return 0.0 if x.mean() else 1.0
    return float(2 * stdtr(len(x) - 1, -abs(x.mean()) / spread * np.sqrt(len(x))))


def corrected(pairs: Sequence[Paired]) -> list[Paired]:
    """The pairs of one table with p corrected for their number (Holm 1979): the chance that any
    BETTER or WORSE among them is wrong stays below 5 %.

    A verdict that does not survive becomes UNDERPOWERED.
    """
    order = sorted(range(len(pairs)), key=lambda i: pairs[i].p)
    out, highest = list(pairs), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(pairs) - rank) * pairs[i].p))
        lost = pairs[i].verdict in ("BETTER", "WORSE") and highest > ALPHA
        word = "UNDERPOWERED" if lost else pairs[i].verdict
        out[i] = replace(pairs[i], p_holm=highest, verdict=word)
    return out


def letters(ordered: Sequence[str], different: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Compact letters of rows, best first: two rows share a letter exactly when they were not told
    apart (insert and absorb; Piepho 2004, "An algorithm for a letter-based representation").

    O(pairs x groups), and at most 26 groups.
    """
    groups = [frozenset(ordered)]
    for a, b in different:
        split = [g - {x} for g in groups if a in g and b in g for x in (a, b)]
        groups = [g for g in groups if not (a in g and b in g)]
        for new in sorted(split, key=len, reverse=True):
            if not any(new <= g for g in groups):
                groups.append(new)
    place = {name: i for i, name in enumerate(ordered)}
    groups.sort(key=lambda g: sorted(place[name] for name in g))
    return {
        name: "".join(chr(ord("a") + k) for k, g in enumerate(groups) if name in g)
        for name in ordered
    }
