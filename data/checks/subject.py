"""The episodes of one environment in one store, as checks read them: blocks of whole episodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from alltrades.data.checks.foreign import APART, RawArray, raw_arrays
from alltrades.data.interface import Interface
from alltrades.data.rows import Rows
from alltrades.data.steps import Steps
from alltrades.data.store import EpisodeStore

BLOCK_BYTES = 2**21  # of the numbers of a block, unless one episode has more
ACTION = "action"  # what actions are called beside the fields


@dataclass(frozen=True)
class Subject:
    """E episodes of one environment.

    Attributes:
        episodes: (E,) their numbers in the store. start, length: (E,) where their rows stand.
        numbers: rows (., D) by field, actions as ACTION. images: rows (., H, W, C).
        odd: fields whose arrays have another number of rows than there are steps -> that number.
        texts: (E,) strings by field.
        times: rows of the store's own time stamps, NaN in episodes without; None where none has.
        steps: seeds, sources and success of the episodes.
        declared: what is said of the environment, by its registration or by the store.
        known: whether the registration says it.
    """

    store: Path
    environment: str
    episodes: np.ndarray
    start: np.ndarray
    length: np.ndarray
    numbers: Mapping[str, Rows | RawArray]
    images: Mapping[str, Rows | RawArray]
    odd: Mapping[str, int]
    texts: Mapping[str, np.ndarray]
    steps: Steps | None
    own: Interface | None
    declared: Interface | None
    known: bool
    times: Rows | None = None

    @property
    def total(self) -> int:
        return int(self.length.sum())

    @property
    def rate(self) -> float | None:
        return None if self.declared is None else self.declared.control_hz

    def named(self, name: str, dimension: int) -> str:
        """One of a field's numbers, in words."""
        names = self.names(name)
        return f"{name}[{dimension}]" + (f" ('{names[dimension]}')" if names else "")

    def names(self, name: str) -> tuple[str, ...] | None:
        """Names of a field's numbers, where they are known and as many."""
        for said in (self.own, self.declared):
            if said is None:
                continue
            known = said.action if name == ACTION else said.observation.get(name)
            if known is not None and known.names is not None:
                names = tuple(known.names)
                return names if len(names) == self.numbers[name].shape[1] else None
        return None

    def blocks(self) -> Iterator[Block]:
        """All episodes in order; memory is a block of about BLOCK_BYTES, or one episode."""
        row = 4 * sum(s.shape[1] for s in self.numbers.values())
        most, first, count = max(1, BLOCK_BYTES // max(row, 1)), 0, len(self.episodes)
        while first < count:
            stop = first + 1
            while (
                stop < count
                and self.start[stop] == self.start[stop - 1] + self.length[stop - 1]
                and self.start[stop] + self.length[stop] - self.start[first] <= most
            ):
                stop += 1
            yield self.block(first, stop)
            first = stop

    def block(self, first: int, stop: int) -> Block:
        """Episodes first to stop, which stand one after another."""
        low, high = int(self.start[first]), int(self.start[stop - 1] + self.length[stop - 1])
        values, bad = {}, {}
        for name, source in self.numbers.items():
            x = source.read(low, high)
            x = x if x.dtype.kind == "f" else x.astype(np.float64)
            finite = np.isfinite(x)
            if not finite.all():
                bad[name] = ~finite
                x = np.where(finite, x, 0)
            values[name] = x
        times = None if self.times is None else self.times.read(low, high)
        start = self.start[first:stop] - low
        return Block(first, start, self.length[first:stop], values, bad, times)


@dataclass(frozen=True)
class Block:
    """Some episodes of a subject.

    Attributes:
        first: number of the first one among the subject's.
        start, length: (n,) rows of each in the values.
        values: rows (S, D) by field, zero where they are not finite. bad: where that is, of fields
            where it is anywhere.
        times: (S,) the store's own time stamps, NaN in episodes without; None where none has any.
    """

    first: int
    start: np.ndarray
    length: np.ndarray
    values: Mapping[str, np.ndarray]
    bad: Mapping[str, np.ndarray]
    times: np.ndarray | None = None
    _kept: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)

    @cached_property
    def inside(self) -> np.ndarray:
        """(S - 1,) whether a row and the next are of one episode."""
        out = np.ones(max(int(self.length.sum()) - 1, 0), bool)
        out[self.start[1:] - 1] = False
        return out

    def kept(self, kind: str, name: str, make: Callable[[], np.ndarray]) -> np.ndarray:
        """What `make` gives of a field, made once."""
        if (kind, name) not in self._kept:
            self._kept[kind, name] = make()
        return self._kept[kind, name]

    def changes(self, name: str) -> np.ndarray:
        """(S - 1, D) from each row to the next; zero from an episode to the next."""

        def make() -> np.ndarray:
            change = np.diff(self.values[name], axis=0)
            change[self.start[1:] - 1] = 0
            return change

        return self.kept("changes", name, make)

    def extremes(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """(n, D) least and most of each episode."""
        x, start = self.values[name], self.start
        low = self.kept("low", name, lambda: np.minimum.reduceat(x, start, axis=0))
        return low, self.kept("high", name, lambda: np.maximum.reduceat(x, start, axis=0))

    def place(self, row: int) -> tuple[int, int]:
        """The episode, among the subject's, and the step of a row."""
        i = int(np.searchsorted(self.start, row, side="right")) - 1
        return self.first + i, row - int(self.start[i])


def subjects(
    store: EpisodeStore, expected: Mapping[str, Interface], environment: str | None = None
) -> list[Subject]:
    """The environments of a store.

    Args:
        expected: what registered environments are, by id.
        environment: id of what a foreign store is of; default its folder's name.
    """
    if store.foreign:
        name = environment or store.path.resolve().name.removesuffix(".zarr")
        return [_foreign(store, name, expected.get(name))] if len(store) else []
    found, columns = [], store.columns()
    own = store.interfaces()
    for name in dict.fromkeys(map(str, columns["environment"])):
        steps = store.steps([name])
        fields = {n: rows for n, rows in steps.observation.items() if len(rows)}
        numbers = {_apart(n): r for n, r in fields.items() if len(r.row_shape) == 1}
        images = {n: r for n, r in fields.items() if len(r.row_shape) == 3}
        if steps.has_actions.any() and steps.action.width:
            numbers[ACTION] = steps.action
        mine, episodes = own.get(name), np.flatnonzero(columns["environment"] == name)
        timed = store.timed(episodes).any()
        found.append(
            Subject(
                store.path,
                name,
                episodes,
                steps.starts,
                steps.lengths,
                numbers,
                images,
                {},
                steps.text,
                steps,
                mine,
                expected.get(name, mine),
                name in expected,
                store.times(episodes) if timed else None,
            )
        )
    return found


def _foreign(store: EpisodeStore, name: str, expected: Interface | None) -> Subject:
    ends = store.episode_ends
    arrays, total = raw_arrays(store.path), int(ends[-1])
    odd = {n: a.shape[0] for n, a in arrays.items() if a.shape[0] != total}
    whole = {n: a for n, a in arrays.items() if n not in odd and n not in APART[1:]}
    length = np.diff(ends, prepend=0)
    return Subject(
        store.path,
        name,
        np.arange(len(ends)),
        ends - length,
        length,
        {n: a for n, a in whole.items() if len(a.row) == 1},
        {n: a for n, a in whole.items() if len(a.row) == 3},
        odd,
        {},
        None,
        None,
        expected,
        expected is not None,
    )


def _apart(name: str) -> str:
    """A field's name beside the actions'."""
    return f"observation.{name}" if name == ACTION else name
