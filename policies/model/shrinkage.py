"""Statistics of a few episodes, drawn towards those of environments that measure the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from alltrades.data.interface import Interface
from alltrades.policies.model.statistics import Spread, Statistics

PRIOR = 5.0  # episodes that what other environments show counts for


def shrunk(
    statistics: Sequence[Statistics], environments: Sequence[Interface], episodes: Sequence[int]
) -> list[Statistics]:
    """Each environment's statistics with mean and deviation of its states drawn towards the pool.

    Two starts say little about how far a goal may lie. State fields of one name that declare the
    same names and units for all their numbers are the same quantities: their environments make a
    pool in which each counts alike. An environment of n episodes takes n / (n + PRIOR) of its own
    moments and the rest of the pool's (the mean of a normal law with a prior worth `PRIOR`
    observations). Fields that declare no units are never pooled.

    Args:
        episodes: of each environment, n.
    """
    out = list(statistics)
    pools: dict[tuple[str, tuple[str, ...], tuple[str, ...]], list[int]] = {}
    for k, environment in enumerate(environments):
        for name, f in environment.of_kind("state").items():
            if f.names is not None and f.units is not None:
                pools.setdefault((name, f.names, f.units), []).append(k)
    for (name, _, _), members in pools.items():
        if len(members) > 1:
            spreads = [statistics[k].states[name] for k in members]
            for k, own in zip(members, spreads):
                drawn = _towards(own, spreads, episodes[k] / (episodes[k] + PRIOR))
                out[k] = replace(out[k], states={**out[k].states, name: drawn})
    return out


def _towards(own: Spread, pool: Sequence[Spread], share: float) -> Spread:
    """`share` of the own moments and the rest of the pool's."""
    means = np.stack([p.mean for p in pool])
    center = means.mean(0)
    variance = (np.stack([p.std for p in pool]) ** 2 + (means - center) ** 2).mean(0)
    mean = share * own.mean + (1 - share) * center
    mine, theirs = own.std**2 + (own.mean - mean) ** 2, variance + (center - mean) ** 2
    std = np.sqrt(share * mine + (1 - share) * theirs)
    moves = [~p.still for p in pool]
    still = own.still & ~np.logical_or.reduce(moves)
    return replace(own, mean=np.where(still, own.mean, mean), std=std, still=still)
