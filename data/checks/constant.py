"""Numbers that do not change: ever, in an episode, or from some step on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from alltrades.data.checks.check import Check
from alltrades.data.checks.findings import Finding
from alltrades.data.checks.subject import ACTION, Block

MOST = 0.9  # share of the episodes in which a number changes, for one without to be odd
ENOUGH = 5  # episodes
STEPS = 5  # of an episode, for a number that does not change in it to be odd


class Constant(Check):
    """A number that is the same in all steps, or in an episode while others of them vary it."""

    kind = "constant"

    def __init__(self, *args) -> None:  # type: ignore[no-untyped-def]
        super().__init__(*args)
        self._low: dict[str, list[np.ndarray]] = {name: [] for name in self.scales}
        self._high: dict[str, list[np.ndarray]] = {name: [] for name in self.scales}

    def see(self, block: Block) -> None:
        for name in self.scales:
            low, high = block.extremes(name)
            self._low[name].append(low)
            self._high[name].append(high)

    def found(self) -> Iterator[Finding]:
        if self.subject.total < STEPS:
            return
        for name in self.scales:
            low, high = np.concatenate(self._low[name]), np.concatenate(self._high[name])
            whole = low.min(0) == high.max(0)
            for d in np.flatnonzero(whole):
                value = float(low[0, d])
                remedy = (
                    "check its driver: nothing can be learned of it"
                    if name == ACTION
                    else "check its sensor, or leave it out"
                )
                what = f"{{it}} is {value:g} in all steps"
                yield self.finding("warning", what, remedy, field=name, dimension=int(d))
            yield from self._episodes(name, low == high, whole | self.scales[name].switch)

    def _episodes(self, name: str, same: np.ndarray, apart: np.ndarray) -> Iterator[Finding]:
        long = self.subject.length >= STEPS
        if long.sum() < ENOUGH:
            return
        odd = (same[long].mean(0) <= 1 - MOST) & ~apart
        for i, d in np.argwhere(same & odd & long[:, None]):
            yield self.finding(
                "warning",
                "{it} does not change in this episode, and does in nearly all others",
                "check the sensor, or leave the episode out",
                int(i),
                0,
                name,
                int(d),
            )
