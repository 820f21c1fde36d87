"""What is known of each episode of some stores, as columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from alltrades.data.columns import INTERVENTIONS, UNMARKED
from alltrades.data.editing.conditions import Condition, values_in_words
from alltrades.data.episode import UNKNOWN
from alltrades.data.fields import text_field
from alltrades.data.store import EpisodeStore
from alltrades.errors import UserError

Weigh = Callable[[EpisodeStore], np.ndarray]


@dataclass(frozen=True)
class Table:
    """E episodes of some stores, store by store.

    Attributes:
        store, number: (E,) which store, and the episode's number there.
        columns: (E,) by name: environment, source, instruction, store (its path) as str objects;
            seed as uint64; success, actions (whether there are any), return, length, first_success,
            interventions (steps that a person took in a policy's place), intervention_share,
            episode and weight as float64, NaN where unknown.
    """

    stores: tuple[EpisodeStore, ...]
    store: np.ndarray
    number: np.ndarray
    columns: dict[str, np.ndarray]

    @classmethod
    def of(cls, stores: Sequence[EpisodeStore], weigh: Weigh | None = None) -> Table:
        """Their episodes; O(episodes), reads no steps.

        Args:
            weigh: weights (T,) of a store's steps, NaN where there are none; an episode's weight is
                their mean. Without it there is no such column.

        Raises UserError for no episodes, and for a store that is named twice.
        """
        paths = [s.path.resolve() for s in stores]
        for k, path in enumerate(paths):
            if path in paths[:k]:
                raise UserError(f"{path}: named twice; expected every store once; leave it out")
        counts = [len(s) for s in stores]
        if not sum(counts):
            named = ", ".join(str(s.path) for s in stores)
            raise UserError(f"{named}: no episodes; expected at least one; check the path")
        parts = [_columns(s, weigh) for s in stores if len(s)]
        return cls(
            tuple(stores),
            np.repeat(np.arange(len(stores)), counts),
            np.concatenate([np.arange(n) for n in counts]),
            {name: np.concatenate([p[name] for p in parts]) for name in parts[0]},
        )

    def __len__(self) -> int:
        return len(self.store)

    def chosen(self, where: Condition | None) -> np.ndarray:
        """(n,) the episodes of which a condition holds; all without one.

        Raises UserError where it holds of none.
        """
        if where is None:
            return np.arange(len(self))
        index = np.flatnonzero(where.of(self.columns))
        if not len(index):
            named = [f"{k} {values_in_words(self.columns[k])}" for k in where.columns(self.columns)]
            raise UserError(
                f"condition {where.text!r}: holds of none of {len(self)} episodes "
                f"({'; '.join(named)}); expected at least one; widen it"
            )
        return index


def _columns(store: EpisodeStore, weigh: Weigh | None) -> dict[str, np.ndarray]:
    c, n = store.columns(), len(store)
    known = c["first_success"] != UNKNOWN
    ends = store.episode_ends
    out = {
        "environment": c["environment"].astype(object),
        "source": c["source"].astype(object),
        "instruction": _instructions(store, c["environment"]),
        "store": np.full(n, str(store.path), object),
        "success": np.where(known, c["success"], np.nan),
        "actions": c["has_actions"].astype(np.float64),
        "first_success": np.where(known, c["first_success"], np.nan),
        "return": c["return"].astype(np.float64),
        "length": np.diff(ends, prepend=0).astype(np.float64),
        "seed": c["seed"],
        "episode": np.arange(n, dtype=np.float64),
    }
    taken = c.get(INTERVENTIONS, np.full(n, UNMARKED))
    out["interventions"] = np.where(taken == UNMARKED, np.nan, taken)
    out["intervention_share"] = out["interventions"] / out["length"]
    if weigh is not None:
        out["weight"] = _means(weigh(store), ends)
    return out


def _means(values: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Means (E,) of steps (T,) that are no NaN; NaN of episodes without one."""
    there = np.isfinite(values)
    starts = np.r_[0, ends[:-1]]
    counts = np.add.reduceat(there.astype(np.int64), starts)
    sums = np.add.reduceat(np.where(there, values, 0.0), starts)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _instructions(store: EpisodeStore, environment: np.ndarray) -> np.ndarray:
    """(E,) "" where an environment has no such field."""
    out = np.full(len(environment), "", object)
    for name, interface in store.interfaces().items():
        field = text_field(interface.observation)
        mine = np.flatnonzero(environment == name)
        if field is not None and len(mine):
            out[mine] = store.steps([name]).text[field]
    return out
