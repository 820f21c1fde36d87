"""Values far from all others, and spikes of one step."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from alltrades.data.checks.check import Check
from alltrades.data.checks.findings import Finding
from alltrades.data.checks.subject import Block
from alltrades.data.checks.wrapping import far_jumps

FAR, ABSURD = 3.0, 100.0  # ranges beyond the usual range: a warning, an error
RARE = 3  # steps in which a number changes that never does otherwise
BEND = 8.0  # times the usual change of change
BACK = 0.25  # share of a spike by which the steps beside it may differ
REMEDY = "check the sensor; mend the value, or leave the episode out"


class Outliers(Check):
    """One finding per episode and number, at the worst step."""

    kind = "outlier"

    def __init__(self, *args) -> None:  # type: ignore[no-untyped-def]
        super().__init__(*args)
        self._far: dict[tuple[int, str, int], tuple[float, int, float]] = {}
        self._spikes: dict[tuple[int, str, int], tuple[int, float]] = {}

    def see(self, block: Block) -> None:
        for name, scale in self.scales.items():
            unit = np.where(scale.width > 0, scale.width, np.inf)
            low, high = block.extremes(name)
            beyond = np.maximum(scale.low - low, high - scale.high) / unit
            for i, d in np.argwhere(beyond > FAR):
                x = self._column(block, name, i, d)
                by = np.maximum(scale.low[d] - x, x - scale.high[d])
                step = int(by.argmax())
                key = (block.first + int(i), name, int(d))
                self._far[key] = float(beyond[i, d]), step, float(x[step])
            rare = (scale.width == 0) & ~scale.still
            rare |= scale.still & ((low != scale.least) | (high != scale.most)).any(0)
            for i, d in np.argwhere(rare & ((low < scale.low) | (high > scale.high))):
                x = self._column(block, name, i, d)
                off = x != scale.low[d]
                if off.sum() <= RARE < len(x):
                    step = int(off.argmax())
                    key = (block.first + int(i), name, int(d))
                    self._spikes[key] = step, float(x[step])
            self._spiked(block, name)

    def _spiked(self, block: Block, name: str) -> None:
        scale, x, change = self.scales[name], block.values[name], block.changes(name)
        rows, dims = far_jumps(block, name, scale)
        for row, d in zip(rows.tolist(), dims.tolist()):
            if row + 1 >= len(change) or not (block.inside[row] and block.inside[row + 1]):
                continue
            there, back = change[row, d], change[row + 1, d]
            bend = abs(back - there)
            if abs(there + back) <= BACK * abs(there) and bend > BEND * scale.bend[d]:
                episode, step = block.place(row + 1)
                self._spikes.setdefault((episode, name, d), (step, float(x[row + 1, d])))

    def _column(self, block: Block, name: str, i: int, d: int) -> np.ndarray:
        low = int(block.start[i])
        return block.values[name][low : low + int(block.length[i]), d]

    def found(self) -> Iterator[Finding]:
        for (episode, name, d), (by, step, value) in self._far.items():
            scale = self.scales[name]
            what = (
                f"{{it}} is {value:.6g}, {by:.2g} times its usual range "
                f"({scale.low[d]:.4g} to {scale.high[d]:.4g}) beyond it"
            )
            severity = "error" if by > ABSURD else "warning"
            yield self.finding(severity, what, REMEDY, episode, step, name, d)  # type: ignore[arg-type]
        for key, (step, value) in self._spikes.items():
            if key not in self._far:
                what = f"{{it}} is {value:.6g} for one step and as before in the next"
                if self.scales[key[1]].width[key[2]] == 0:
                    what = f"{{it}} is {value:.6g}, and {self.scales[key[1]].low[key[2]]:.6g} else"
                yield self.finding("warning", what, REMEDY, key[0], step, key[1], key[2])
