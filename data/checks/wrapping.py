"""Angles that jump from one end of their range to the other."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from alltrades.data.checks.check import Check
from alltrades.data.checks.findings import Finding
from alltrades.data.checks.scale import Scale
from alltrades.data.checks.subject import Block

JUMP = 0.4  # of the usual range: a change that is far
WRAP = 0.75  # of the whole range: a change from end to end
PERIODS = {2 * np.pi: "2 pi", 360.0: "360", np.pi: "pi", 180.0: "180", 1.0: "1"}
NEAR = 0.1  # share by which a jump may differ from a period
OFTEN = 3  # jumps of a number whose range is no period


def far_jumps(block: Block, name: str, scale: Scale) -> tuple[np.ndarray, np.ndarray]:
    """Rows and dimensions of far changes to the next row, of numbers that are smooth else."""

    def make() -> np.ndarray:
        limit = np.where(scale.smooth, JUMP * scale.width, np.inf).astype(np.float32)
        return np.flatnonzero((abs(block.changes(name)) > limit).ravel())

    return np.divmod(block.kept("jumps", name, make), block.values[name].shape[1])


class Wrapping(Check):
    """Far jumps between both ends of a number's range, behind which it goes on as before."""

    kind = "wrapping"

    def __init__(self, *args) -> None:  # type: ignore[no-untyped-def]
        super().__init__(*args)
        self._jumps: dict[tuple[str, int], list[tuple[int, int, float]]] = {}

    def see(self, block: Block) -> None:
        for name, scale in self.scales.items():
            rows, dims = far_jumps(block, name, scale)
            whole = scale.most - scale.least
            change = block.changes(name)
            for row, d in zip(rows.tolist(), dims.tolist()):
                jump = abs(float(change[row, d]))
                if jump >= WRAP * whole[d] and self._goes_on(block, name, scale, row, d):
                    episode, step = block.place(row + 1)
                    self._jumps.setdefault((name, d), []).append((episode, step, jump))

    def _goes_on(self, block: Block, name: str, scale: Scale, row: int, d: int) -> bool:
        """Whether it moves on by little on both sides of the jump, and is no switch's edge."""
        change = block.changes(name)
        beside = [r for r in (row - 1, row + 1) if 0 <= r < len(change) and block.inside[r]]
        steps = [abs(float(change[r, d])) for r in beside]
        whole = float(scale.most[d] - scale.least[d])
        return bool(steps) and max(steps) <= JUMP * whole and min(steps) > 0

    def found(self) -> Iterator[Finding]:
        for (name, d), jumps in self._jumps.items():
            size = float(np.median([j for _, _, j in jumps]))
            near = [p for p in PERIODS if abs(size / p - 1) <= NEAR and p >= size * (1 - NEAR / 5)]
            if not near and len(jumps) < OFTEN:
                continue
            period = f", about {PERIODS[near[0]]}" if near else ""
            episode, step, _ = jumps[0]
            yield self.finding(
                "warning",
                f"{{it}} wraps: it jumps by {size:.4g}{period}, {len(jumps)} times in "
                f"{len({e for e, _, _ in jumps})} episodes",
                "give its sine and cosine in its place, or unwrap it within each episode",
                episode,
                step,
                name,
                d,
            )
