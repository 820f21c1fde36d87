"""Episodes of a store as they are looked at: numbers of every step, pictures of some."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from alltrades.data.checks.foreign import raw_arrays
from alltrades.data.checks.subject import ACTION, Subject, subjects
from alltrades.data.editing.table import Table
from alltrades.data.episode import UNKNOWN
from alltrades.data.store import EpisodeStore
from alltrades.errors import UserError


@dataclass(frozen=True)
class Viewed:
    """One episode; in memory but for its pictures.

    Attributes:
        number: in its store. place: among those of its environment.
        rate: control steps per second, None where it is unknown.
        times: (T,) seconds from the first step, as recorded or by the rate; None without either.
        numbers: (T, D) by field, actions as ACTION; NaN and infinities as they are.
        labels: of each of a field's numbers, with its unit where that is known.
        outcome: (T,) "reward" where there is any, "success" where it is known, "intervention" (1
            where a person acted in a policy's place) where that is marked, "weight".
        texts: by field.
        cameras: shape (H, W, C) and dtype by field.
        pictures: what reads some steps (n,) of a camera, as (n, H, W, C).
    """

    number: int
    place: int
    environment: str
    length: int
    rate: float | None
    times: np.ndarray | None
    numbers: Mapping[str, np.ndarray]
    labels: Mapping[str, tuple[str, ...]]
    outcome: Mapping[str, np.ndarray]
    texts: Mapping[str, str]
    cameras: Mapping[str, tuple[tuple[int, ...], np.dtype]]
    pictures: Callable[[str, np.ndarray], np.ndarray]


class Recordings:
    """A store whose episodes are looked at one by one.

    Args:
        weights: (T,) of the store's steps, NaN where there are none; None without weights.

    Memory: O(episodes), a byte for every step of which success is known, and one episode without
    its pictures. Raises UserError for a store without episodes, and for damaged files.
    """

    def __init__(self, store: EpisodeStore, weights: np.ndarray | None = None) -> None:
        if not len(store):
            raise UserError(
                f"{store.path}: no episodes; expected some to look at; record into it first"
            )
        self.store, self.weights = store, weights
        self.table = Table.of([store], None if weights is None else lambda _: weights)
        self.subjects = subjects(store, {})
        self.subject, self.place = (np.empty(len(store), np.int64) for _ in range(2))
        for k, subject in enumerate(self.subjects):
            self.subject[subject.episodes] = k
            self.place[subject.episodes] = np.arange(len(subject.episodes))

    def __len__(self) -> int:
        return len(self.store)

    @property
    def marked(self) -> np.ndarray:
        """(E,) bool, of which it is marked where a person acted in a policy's place."""
        return np.isfinite(self.table.columns["interventions"])

    @property
    def environments(self) -> np.ndarray:
        """(E,) of each episode."""
        return self.table.columns["environment"]

    def episode(self, number: int) -> Viewed:
        """One of them. Reads its numbers."""
        subject, place = self.subjects[self.subject[number]], int(self.place[number])
        low, length = int(subject.start[place]), int(subject.length[place])
        acted = bool(self.table.columns["actions"][number])
        numbers = {
            name: source.read(low, low + length)
            for name, source in subject.numbers.items()
            if name != ACTION or acted
        }
        return Viewed(
            number,
            place,
            subject.environment,
            length,
            subject.rate,
            _times(subject, low, length),
            {name: x.astype(np.promote_types(x.dtype, np.float32)) for name, x in numbers.items()},
            {name: labels(subject, name) for name in numbers},
            self._outcome(number, length),
            {name: str(texts[place]) for name, texts in subject.texts.items()},
            {n: (tuple(s.shape[1:]), np.dtype(s.dtype)) for n, s in subject.images.items()},
            lambda name, steps: subject.images[name].take(low + np.asarray(steps)),
        )

    def _outcome(self, number: int, length: int) -> dict[str, np.ndarray]:
        stop = int(self.store.episode_ends[number])
        out = {}
        for name, source in self._sources.items():
            values = source.read(stop - length, stop).reshape(length, -1)[:, 0].astype(np.float64)
            if name == "reward" and not values.any():
                continue
            if name == "success" and self._silent[number]:
                continue
            out[name] = values
        if self.marked[number]:
            marks = self.store.outcomes("intervention").read(stop - length, stop)
            out["intervention"] = marks.reshape(length).astype(np.float64)
        if self.weights is not None:
            out["weight"] = self.weights[stop - length : stop]
        return out

    @cached_property
    def _silent(self) -> np.ndarray:
        """(E,) whether nothing says success; a foreign store's own array does."""
        known = self.store.columns()["first_success"] != UNKNOWN
        return np.zeros(len(self), bool) if self.store.foreign else ~known

    @cached_property
    def _sources(self) -> dict[str, Any]:
        names = ("reward", "success")
        if not self.store.foreign:
            return {name: self.store.outcomes(name) for name in names}
        total = int(self.store.episode_ends[-1])
        return {
            name: array
            for name, array in raw_arrays(self.store.path).items()
            if name in names and array.shape[0] == total
        }


def _times(subject: Subject, low: int, length: int) -> np.ndarray | None:
    if subject.times is not None:
        found = subject.times.read(low, low + length)
        if np.isfinite(found).all():
            return found
    return None if subject.rate is None else np.arange(length) / subject.rate


def labels(subject: Subject, name: str) -> tuple[str, ...]:
    """Names of a field's numbers with their units: "x (m)"; else their positions."""
    size = subject.numbers[name].shape[1]
    names = subject.names(name) or tuple(map(str, range(size)))
    known = subject.declared
    described = known and (known.action if name == ACTION else known.observation.get(name))
    units = (described and described.units) or ()
    if len(units) != size:
        return names
    return tuple(f"{n} ({u})" if u else n for n, u in zip(names, units))
