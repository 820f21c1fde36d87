"""Where rows stand: runs of sources one after another, in arrays, however many there are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np

from alltrades.data.sources import Block, Source


class Runs:
    """N rows as runs of sources one after another. What follows in one source is one run: episodes
    of an environment, however many, that stand together.

    Memory: 28 bytes for each of R runs.

    Args:
        sources: which there are; one that no run is of is left out.
        source: (R,) number of each run's.
        start, stop: (R,) rows of it; runs without rows are left out.

    Attributes:
        sources, source, start: as they are kept. offsets: (R + 1,) row at which each run begins.
    """

    def __init__(
        self, sources: Sequence[Source], source: np.ndarray, start: np.ndarray, stop: np.ndarray
    ) -> None:
        some = stop > start
        if not some.all():
            source, start, stop = source[some], start[some], stop[some]
        follows = (source[1:] == source[:-1]) & (start[1:] == stop[:-1])
        if follows.any():
            first = np.concatenate([[True], ~follows])
            last = np.concatenate([~follows, [True]])
            source, start, stop = source[first], start[first], stop[last]
        if len(source) < len(sources):  # as of one environment among many: O(runs), not sources
            used, number = np.unique(source, return_inverse=True)
        else:
            there = np.zeros(len(sources), bool)
            there[source] = True
            used, number = np.flatnonzero(there), (np.cumsum(there) - 1)[source]
        self.sources = [sources[i] for i in used.tolist()]
        self.source = number.astype(np.int32)
        self.start = start.astype(np.int64)
        self.offsets = np.concatenate([[0], np.cumsum(stop - start, dtype=np.int64)])

    @classmethod
    def of(cls, blocks: Sequence[Block]) -> Runs:
        """Those of blocks."""
        sources, number = _numbered([b.source for b in blocks])
        start, stop = (np.array([b[i] for b in blocks], np.int64) for i in (1, 2))
        return cls(sources, number, start, stop)

    @classmethod
    def concatenate(cls, parts: Sequence[Runs]) -> Runs:
        """The rows of all parts, in order."""
        sources, number = _numbered([s for p in parts for s in p.sources])
        firsts = np.cumsum([0, *(len(p.sources) for p in parts)])
        return cls(
            sources,
            np.concatenate([number[f + p.source] for p, f in zip(parts, firsts)]),
            np.concatenate([p.start for p in parts]),
            np.concatenate([p.stop for p in parts]),
        )

    def __len__(self) -> int:
        return len(self.source)

    def __iter__(self) -> Iterator[Block]:
        for i, start, stop in zip(self.source.tolist(), self.start.tolist(), self.stop.tolist()):
            yield Block(self.sources[i], start, stop)

    @property
    def rows(self) -> int:
        return int(self.offsets[-1])

    @property
    def lengths(self) -> np.ndarray:
        """(R,) rows of each."""
        return np.diff(self.offsets)

    @property
    def stop(self) -> np.ndarray:
        """(R,) one past the last row of each in its source."""
        return self.start + self.lengths

    @cached_property
    def of_source(self) -> np.ndarray:
        """(sources,) rows of each."""
        return np.bincount(self.source, self.lengths, len(self.sources)).astype(np.int64)

    def having(self, chosen: Sequence[bool]) -> Runs:
        """Only the runs of the sources that are chosen."""
        mine = np.array(chosen, bool)[self.source]
        return Runs(self.sources, self.source[mine], self.start[mine], self.stop[mine])

    def reading(self, sources: Sequence[Source]) -> Runs:
        """The same rows of other sources, one for each."""
        out, number = _numbered(sources)
        return Runs(out, number[self.source], self.start, self.stop)

    def between(self, low: np.ndarray, high: np.ndarray) -> Runs:
        """Rows low to high of each of some ranges (n,), in order.

        Time: O(n log R) and the runs of the result.
        """
        low, high = (np.asarray(x, np.int64) for x in (low, high))
        some = high > low
        low, high = low[some], high[some]
        first = np.searchsorted(self.offsets, low, side="right") - 1  # the run it begins in
        last = np.searchsorted(self.offsets, high, side="left") - 1  # and ends in
        counts = last - first + 1
        ends = np.cumsum(counts)
        of = np.repeat(first - (ends - counts), counts) + np.arange(counts.sum())  # run of each
        begin = np.maximum(np.repeat(low, counts), self.offsets[of])
        end = np.minimum(np.repeat(high, counts), self.offsets[of + 1])
        shift = self.start[of] - self.offsets[of]
        return Runs(self.sources, self.source[of], begin + shift, end + shift)

    def by_source(self, most: int) -> Iterator[tuple[Source, int, int, list[tuple[int, int, int]]]]:
        """All rows, source by source and each in its order, so that nothing is read twice that
        stands together: a source, which rows of it (at most so many), and of these which belong
        where: (row of these runs, first, one past the last).
        """
        order = np.lexsort((self.start, self.source))
        edges = np.searchsorted(self.source[order], np.arange(1, len(self.sources)))
        for source, mine in zip(self.sources, np.split(order, edges)):
            start, stop, at = (x[mine].tolist() for x in (self.start, self.stop, self.offsets))
            r = 0
            while r < len(start):
                first, last, q = start[r], stop[r], r + 1
                while q < len(start) and start[q] <= last and max(stop[q], last) - first <= most:
                    last, q = max(stop[q], last), q + 1
                if last - first > most:  # one long run
                    for low in range(first, last, most):
                        high = min(low + most, last)
                        yield source, low, high, [(at[r] + low - first, low, high)]
                else:
                    yield source, first, last, list(zip(at[r:q], start[r:q], stop[r:q]))
                r = q


def _numbered(sources: Sequence[Source]) -> tuple[list[Source], np.ndarray]:
    """The different ones, and the number (n,) of each among them."""
    known: dict[int, int] = {}
    out: list[Source] = []
    number = np.empty(len(sources), np.int64)
    for i, source in enumerate(sources):
        at = known.setdefault(id(source), len(out))
        if at == len(out):
            out.append(source)
        number[i] = at
    return out, number
