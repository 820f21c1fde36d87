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
    """Each environment's statistics drawn towards the pool of those that measure the same.

    Two starts say little about how far a goal may lie, nor about how far an arm must be moved.
    State fields of one name that declare the same names and units for all their numbers are the
    same quantities, and so are actions of the same names, units and box: their environments make a
    pool in which each counts alike. An environment of n episodes takes n / (n + PRIOR) of its own
    moments, or range of actions, and the rest of the pool's (the mean of a normal law with a prior
    worth `PRIOR` observations); its actions may be sampled as far as those of the pool reach. What
    declares no names is never pooled.

    Args:
        episodes: of each environment, n.
    """
    out = list(statistics)
    shares = [n / (n + PRIOR) for n in episodes]
    for name, members in _state_pools(environments):
        pool = [statistics[k].states[name] for k in members]
        for k, own in zip(members, pool):
            out[k] = replace(out[k], states={**out[k].states, name: _moments(own, pool, shares[k])})
    for members in _action_pools(environments):
        pool = [statistics[k].action for k in members]
        for k, own in zip(members, pool):
            out[k] = replace(out[k], action=_ranges(own, pool, shares[k]))
    return out


def _state_pools(environments: Sequence[Interface]) -> list[tuple[str, list[int]]]:
    """Name and environments of the state fields that several have."""
    pools: dict[tuple[str, tuple[str, ...], tuple[str, ...]], list[int]] = {}
    for k, environment in enumerate(environments):
        for name, f in environment.of_kind("state").items():
            if f.names is not None and f.units is not None:
                pools.setdefault((name, f.names, f.units), []).append(k)
    return [(key[0], members) for key, members in pools.items() if len(members) > 1]


def _action_pools(environments: Sequence[Interface]) -> list[list[int]]:
    """Environments whose actions are the same quantities."""
    pools: dict[str, list[int]] = {}
    for k, environment in enumerate(environments):
        action = environment.action
        if action.names is not None and action.bounded:
            box = [bound.tolist() for bound in action.box]
            pools.setdefault(repr((action.names, action.units, box)), []).append(k)
    return [members for members in pools.values() if len(members) > 1]


def _ranges(own: Spread, pool: Sequence[Spread], share: float) -> Spread:
    """`share` of the own range without outliers and the rest of the pool's; a dimension that stands
    still here alone moves as in the pool.
    """
    drawn = _moments(own, pool, share)
    low = np.min([p.inner_low for p in pool], axis=0)
    high = np.max([p.inner_high for p in pool], axis=0)
    inner_low = np.where(drawn.still, own.inner_low, share * own.inner_low + (1 - share) * low)
    inner_high = np.where(drawn.still, own.inner_high, share * own.inner_high + (1 - share) * high)
    return replace(
        drawn,
        low=np.where(drawn.still, own.low, np.minimum(own.low, low)),
        high=np.where(drawn.still, own.high, np.maximum(own.high, high)),
        inner_low=inner_low,
        inner_high=inner_high,
    )


def _moments(own: Spread, pool: Sequence[Spread], share: float) -> Spread:
    """Mean and deviation: `share` of the own second moments and the rest of the pool's."""
    means = np.stack([p.mean for p in pool])
    center = means.mean(0)
    variance = (np.stack([p.std for p in pool]) ** 2 + (means - center) ** 2).mean(0)
    mean = share * own.mean + (1 - share) * center
    mine, theirs = own.std**2 + (own.mean - mean) ** 2, variance + (center - mean) ** 2
    std = np.sqrt(share * mine + (1 - share) * theirs)
    moves = [~p.still for p in pool]
    still = own.still & ~np.logical_or.reduce(moves)
    return replace(own, mean=np.where(still, own.mean, mean), std=std, still=still)
