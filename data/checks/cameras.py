"""Cameras that stand still while the robot moves, and pictures that are black or torn."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from alltrades.data.checks.check import Check
from alltrades.data.checks.findings import Finding
from alltrades.data.checks.frames import Frames, episodes, sampled
from alltrades.data.checks.torn import Torn

BLANK = 0.05  # of the usual spread of a picture's pixels
FROZEN = 5  # pictures that are equal to the one before, one after another
MOVED = 0.02  # of a number's range, by which something moves that a camera would see
RARE = 0.1  # share of equal pictures below which one is dropped, and the camera not slow
REMEDY = "leave the episode out, or record it again"


class Cameras(Check):
    """One finding per episode, camera and kind of fault, at its first step.

    A picture that equals the one before is a fault where states or actions moved; without those,
    where it is not at an end of the episode.
    """

    kind = "camera"

    def __init__(self, *args) -> None:  # type: ignore[no-untyped-def]
        super().__init__(*args)
        self._found: list[Finding] = []

    def found(self) -> Iterator[Finding]:
        for name in self.subject.images:
            usual = sampled(self.subject, name)
            spread = float(np.median(usual.spread))
            pairs = usual.change >= 0
            still = float(usual.same[pairs].mean()) if pairs.any() else 0.0
            torn = Torn(usual)
            blank = 0
            for i, frames in episodes(self.subject, name):
                dark = frames.spread <= BLANK * spread
                blank += int(dark.sum())
                if spread > 0 and dark.any():
                    yield self._at(
                        "error", "black", name, i, dark, "pictures of one colour", len(dark)
                    )
                yield from self._still(name, i, frames, still, dark)
                bad = torn.of(frames) & ~dark
                if bad.any():
                    yield self._at(
                        "warning", "torn", name, i, bad, "pictures whose parts do not fit", len(bad)
                    )
            if spread == 0 and blank == self.subject.total:
                yield self._one("error", "black", name, None, None, "all its pictures are blank")

    def _still(
        self, name: str, i: int, frames: Frames, still: float, dark: np.ndarray
    ) -> Iterator[Finding]:
        same = frames.same & ~dark
        if not same.any():
            return
        edges = np.flatnonzero(np.diff(np.concatenate([[0], same, [0]])))
        runs = [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]
        moving = self._moving(i, runs, len(same))
        runs = [run for run, moves in zip(runs, moving) if moves]
        if not runs:
            return
        first, stop = max(runs, key=lambda r: r[1] - r[0])
        usual = 1 / max(1 - still, 0.02)  # pictures of a slow camera that are equal
        if stop - first >= max(FROZEN, 4 * usual):
            half = 2 * (stop - first) >= len(same)
            what = f"'{name}' shows one picture for {stop - first + 1} steps while the robot moves"
            yield self._one("error" if half else "warning", "frozen", name, i, first, what)
        elif still <= RARE:
            count = sum(b - a for a, b in runs)
            what = f"'{name}' repeats {count} pictures while the robot moves, as if some were lost"
            yield self._one("warning", "dropped", name, i, runs[0][0], what)

    def _moving(self, i: int, runs: list[tuple[int, int]], length: int) -> list[bool]:
        """Whether anything moves in each run of equal pictures."""
        if not self.scales:
            return [a > 1 and b < length for a, b in runs]
        block = self.subject.block(i, i + 1)
        first = np.array([a - 1 for a, _ in runs])
        last = np.array([b - 1 for _, b in runs])
        need = np.minimum(MOVED, 0.5 * self._pace(block) * (last - first))
        return (self.motion(block, first, last) > np.maximum(need, 1e-6)).tolist()

    def _pace(self, block) -> float:  # type: ignore[no-untyped-def]
        rows = np.arange(len(block.inside))
        return float(np.median(self.motion(block, rows, rows + 1))) if len(rows) else 0.0

    def _at(
        self, severity, kind: str, name: str, i: int, bad: np.ndarray, words: str, count: int
    ) -> Finding:  # type: ignore[no-untyped-def]
        what = f"'{name}' has {int(bad.sum())} of {count} {words}"
        return self._one(severity, kind, name, i, int(bad.argmax()), what)

    def _one(self, severity, kind: str, name: str, i, step, what: str) -> Finding:  # type: ignore[no-untyped-def]
        finding = self.finding(severity, what, REMEDY, i, step, name)
        return Finding(**{**finding.to_json(), "kind": kind})
