"""Numbers that stay at their limit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from alltrades.data.checks.check import Check
from alltrades.data.checks.findings import Finding

SHARE = 0.05  # of the steps that are exactly at an extreme, of a number that is not a switch
FEW = 3  # steps: one or two are at an extreme by chance


class Saturated(Check):
    """Many steps exactly at the largest or the least value: clipped. Told by the sample; zero is
    where many numbers rest.
    """

    kind = "saturated"

    def found(self) -> Iterator[Finding]:
        for name, scale in self.scales.items():
            values = [b.values[name] for b in self.sample]
            total = sum(len(v) for v in values)
            for edge, word in ((scale.most, "largest"), (scale.least, "least")):
                there = [v == edge for v in values]
                count = sum(t.sum(0) for t in there)
                share = count / total
                odd = (count >= FEW) & (share >= SHARE) & ~scale.switch & ~scale.still & (edge != 0)
                for d in np.flatnonzero(odd):
                    k = next(i for i, t in enumerate(there) if t[:, d].any())
                    episode, step = self.sample[k].place(int(there[k][:, d].argmax()))
                    yield self.finding(
                        "warning",
                        f"{{it}} is at its {word} value, {float(edge[d]):g}, in {share[d]:.0%} of "
                        "the steps, as if it was cut off",
                        "check the range of the sensor or the limit of the driver",
                        episode,
                        step,
                        name,
                        int(d),
                    )
