"""Episodes that are there twice: equal, cut, or with noise upon them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator

import numpy as np

from alltrades.data.checks.check import Check
from alltrades.data.checks.findings import Finding
from alltrades.data.checks.scale import Scale
from alltrades.data.checks.subject import Block

LEVELS = 2**12  # of a number's usual range, in a digest
KEPT = 16  # hashes of steps that are kept of each episode: the least, so that cut copies share some
SHARED = 0.6  # of them, in episodes that share a part
POINTS = 8  # at which noisy copies are compared
NEAR = 0.02  # of a number's usual range
SAME_STEPS = 0.5  # share of distinct steps below which a world has few, and episodes may be equal


class Duplicates(Check):
    """Equal episodes have equal digests of their numbers, rounded; parts of episodes share hashes
    of steps; noisy copies are near at POINTS. O(steps), and memory of KEPT numbers per episode.

    Attributes:
        equal: episode, among the subject's -> the first that is equal.
    """

    kind = "duplicate"

    def __init__(self, *args) -> None:  # type: ignore[no-untyped-def]
        super().__init__(*args)
        self.equal: dict[int, int] = {}
        self._first: dict[bytes, int] = {}
        self._hashes: list[np.ndarray] = []
        self._points: list[np.ndarray] = []
        self._names = [n for n, s in self.scales.items() if not (s.still | s.clock).all()]
        self._odd = np.random.default_rng(0)
        self._factors = {  # of numbers in pairs
            n: self._odd.integers(1, 2**63, -(-len(s.width) // 2), np.int64).astype(np.uint64)
            | np.uint64(1)
            for n, s in self.scales.items()
        }
        self._distinct = self._rows = 0

    def see(self, block: Block) -> None:
        if not self._names:
            return
        hashes = np.zeros(int(block.length.sum()), np.uint64)
        points = []
        at = block.start[:, None] + np.linspace(0, 1, POINTS) * (block.length[:, None] - 1)
        index = at.astype(np.int64)  # (n, POINTS)
        for name in self._names:
            scale, x = self.scales[name], block.values[name]
            unit = np.where(scale.width > 0, scale.width, 1.0).astype(np.float32)
            for pair, factor in zip(_pairs(x, scale, unit).T, self._factors[name]):
                hashes += pair * factor
            moves = scale.smooth
            points.append(((x[index] - scale.low) / unit)[..., moves].reshape(len(index), -1))
        hashes ^= hashes >> np.uint64(29)
        hashes *= np.uint64(0xBF58476D1CE4E5B9)
        hashes ^= hashes >> np.uint64(32)
        self._points.append(np.concatenate(points, 1).astype(np.float32))
        for i, (low, count) in enumerate(zip(block.start.tolist(), block.length.tolist())):
            mine = hashes[low : low + count]
            digest = hashlib.blake2b(mine.tobytes(), digest_size=16).digest()
            number = block.first + i
            first = self._first.setdefault(digest, number)
            if first != number:
                self.equal[number] = first
            least = np.partition(mine, min(4 * KEPT, count) - 1)[: 4 * KEPT]
            found = np.unique(least)
            self._distinct, self._rows = self._distinct + len(found), self._rows + len(least)
            self._hashes.append(found[:KEPT])

    def found(self) -> Iterator[Finding]:
        if not self._rows:
            return
        few = self._distinct < SAME_STEPS * self._rows
        told = set(self.equal)
        for i, first in sorted(self.equal.items()):
            yield self.finding(
                "note" if few or self.subject.length[i] <= 2 else "error",
                f"it is equal to episode {self.subject.episodes[first]}",
                "keep one of them: --fix does; held-out episodes would be known",
                i,
                0,
            )
        if few:
            return
        for i, (first, words) in sorted({**self._noisy(), **self._cut()}.items()):
            if i not in told:
                yield self.finding(
                    "warning",
                    f"it {words} episode {self.subject.episodes[first]}",
                    "keep one of them, if one is a copy",
                    i,
                    0,
                )

    def _cut(self) -> dict[int, tuple[int, str]]:
        """Episodes that share many steps with an earlier one, and are not equal to it."""
        owners: dict[int, list[int]] = {}
        out = {}
        values, counts = np.unique(np.concatenate(self._hashes), return_counts=True)
        common = values[counts > 1]
        if not len(common):
            return {}
        for i, hashes in enumerate(self._hashes):
            if i in self.equal or len(hashes) < 4 or not np.isin(hashes, common).any():
                continue
            shared = Counter(k for h in hashes.tolist() for k in owners.get(h, ())[:4])
            best = shared.most_common(1)
            if best:
                first, count = best[0]
                both = min(len(hashes), len(self._hashes[first]))
                if count >= SHARED * both or count >= KEPT // 2:
                    out[i] = first, "shares most of its steps with"
            for h in hashes.tolist():
                owners.setdefault(h, []).append(i)
        return out

    def _noisy(self) -> dict[int, tuple[int, str]]:
        """Episodes that are near an earlier one all along. O(episodes log episodes) where few are
        near along the direction in which they differ most.
        """
        points = np.concatenate(self._points)
        if len(points) < 2 or not points.shape[1]:
            return {}
        varies = np.ptp(np.quantile(points, (0.05, 0.95), axis=0), axis=0)
        apart = varies > 10 * NEAR  # where any two are usually apart
        if apart.sum() < POINTS:
            return {}
        points = points[:, apart]
        key = np.argmax(varies[apart])
        order, out = np.argsort(points[:, key]), {}
        line = points[order, key]
        for ahead in range(1, min(len(order), 200)):
            near = line[ahead:] - line[:-ahead] <= NEAR
            if not near.any():
                break
            here = np.flatnonzero(near)
            a, b = order[here], order[here + ahead]
            close = (abs(points[a] - points[b]) <= NEAR).all(1)
            for x, y in zip(a[close].tolist(), b[close].tolist()):
                out[max(x, y)] = min(x, y), "is all along near"
        return out


def _pairs(x: np.ndarray, scale: Scale, unit: np.ndarray) -> np.ndarray:
    """(S, pairs) of numbers (S, D) that are no clocks, rounded to LEVELS of their unit (D,), two in
    one; the last may stand alone.
    """
    taken = np.flatnonzero(~scale.clock)
    levels = np.zeros((len(x), len(taken) + len(taken) % 2), np.int32)
    with np.errstate(invalid="ignore", over="ignore"):
        value = (x if len(taken) == x.shape[1] else x[:, taken]) - scale.low[taken].astype("f4")
        value *= LEVELS / unit[taken]
        np.rint(value, out=value)
        np.clip(value, -(2.0**30), 2.0**30, out=value)
    levels[:, : len(taken)] = value
    return levels.view(np.uint64)
