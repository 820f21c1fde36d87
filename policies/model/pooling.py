"""Statistics that environments share because they measure the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from alltrades.data.interface import Interface
from alltrades.policies.model.statistics import Spread, Statistics


def pooled(statistics: Sequence[Statistics], environments: Sequence[Interface]) -> list[Statistics]:
    """Each environment's statistics, those of the same quantities being one for all that have them.

    State fields of one name that declare the same names and units for all their numbers are the
    same quantities, and so are actions of the same names, units and box. A network then sees one
    place as one number in every environment, and two starts need not say how far a goal may lie.
    Each environment counts alike, however many episodes it has. What declares no names is never
    pooled.
    """
    out = list(statistics)
    for name, members in state_pools(environments):
        pool = [statistics[k].states[name] for k in members]
        for k, own in zip(members, pool):
            out[k] = replace(out[k], states={**out[k].states, name: _moments(own, pool)})
    for members in action_pools(environments):
        pool = [statistics[k].action for k in members]
        for k, own in zip(members, pool):
            out[k] = replace(out[k], action=_ranges(own, pool))
    return out


def state_pools(environments: Sequence[Interface]) -> list[tuple[str, list[int]]]:
    """Name and environments, in order, of the state fields that several have."""
    pools: dict[tuple[str, tuple[str, ...], tuple[str, ...]], list[int]] = {}
    for k, environment in enumerate(environments):
        for name, f in environment.of_kind("state").items():
            if f.names is not None and f.units is not None:
                pools.setdefault((name, f.names, f.units), []).append(k)
    return [(key[0], members) for key, members in pools.items() if len(members) > 1]


def action_pools(environments: Sequence[Interface]) -> list[list[int]]:
    """Environments, in order, whose actions are the same quantities."""
    pools: dict[str, list[int]] = {}
    for k, environment in enumerate(environments):
        action = environment.action
        if action.names is not None and action.bounded:
            box = [bound.tolist() for bound in action.box]
            pools.setdefault(repr((action.names, action.units, box)), []).append(k)
    return [members for members in pools.values() if len(members) > 1]


def _moments(own: Spread, pool: Sequence[Spread]) -> Spread:
    """Mean and deviation of the pool; what stands still everywhere keeps its own."""
    still = np.logical_and.reduce([p.still for p in pool])
    means = np.stack([p.mean for p in pool])
    mean = means.mean(0)
    std = np.sqrt((np.stack([p.std for p in pool]) ** 2 + (means - mean) ** 2).mean(0))
    return replace(own, mean=np.where(still, own.mean, mean), std=std, still=still)


def _ranges(own: Spread, pool: Sequence[Spread]) -> Spread:
    """The same with the ranges of the pool, with and without outliers."""
    out = _moments(own, pool)
    ends = {
        name: np.where(out.still, getattr(own, name), end([getattr(p, name) for p in pool], axis=0))
        for name, end in (
            ("low", np.min),
            ("inner_low", np.min),
            ("high", np.max),
            ("inner_high", np.max),
        )
    }
    return replace(out, **ends)
