"""Time stamps, where a store keeps them: gaps, jitter, order, rate."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from alltrades.data.checks.check import Check
from alltrades.data.checks.findings import Finding
from alltrades.data.checks.subject import Block

NAME = re.compile(r"(?:.*[._])?(?:time_?stamps?(?:_.*)?|times?|stamps?|t)", re.IGNORECASE)
GAP = 1.6  # periods between two steps
LONG = 10.0  # periods that are an error
JITTER = 0.2  # of a period, by which a tenth of the steps are off
UNITS = {1.0: "s", 1e3: "ms", 1e6: "us", 1e9: "ns"}


class Times(Check):
    """One finding per episode and kind of fault."""

    kind = "time"

    def __init__(self, *args) -> None:  # type: ignore[no-untyped-def]
        super().__init__(*args)
        self._found: list[Finding] = []
        self._period: dict[tuple[str, int], float] = {}
        for name, d in self._stamps():
            change = [b.changes(name)[b.inside][:, d] for b in self.sample]
            every = np.concatenate(change) if change else np.zeros(0)
            if len(every):
                self._period[name, d] = float(np.median(every))

    def _stamps(self) -> Iterator[tuple[str, int]]:
        for name in self.scales:
            size = len(self.scales[name].low)
            named = self.subject.names(name) or ()
            if size == 1 and NAME.fullmatch(name):
                yield name, 0
            for d, word in enumerate(named):
                if NAME.fullmatch(word) and word.lower() != "t" and size > 1:
                    yield name, d

    def see(self, block: Block) -> None:
        for (name, d), period in self._period.items():
            x = block.values[name][:, d].astype(np.float64)
            for i, (low, count) in enumerate(zip(block.start.tolist(), block.length.tolist())):
                self._episode(name, d, period, block.first + i, x[low : low + count])

    def _episode(self, name: str, d: int, period: float, i: int, x: np.ndarray) -> None:
        change = np.diff(x)
        if not len(change) or period <= 0:
            return

        def say(severity, step: int, what: str, remedy: str) -> None:  # type: ignore[no-untyped-def]
            self._found.append(self.finding(severity, what, remedy, i, step, name, d))

        back = np.flatnonzero(change <= 0)
        if len(back):
            step = int(back[0])
            say(
                "error" if (change < 0).any() else "warning",
                step + 1,
                f"{{it}} is {x[step + 1]:.9g} after {x[step]:.9g}: it does not go on",
                "put the steps in order, or cut the episode there",
            )
        step = int(change.argmax())
        if change[step] >= GAP * period:
            lost = change[step] / period
            say(
                "error" if lost >= LONG else "warning",
                step + 1,
                f"a gap in {{it}}: {change[step]:.4g} after the step before, {lost:.3g} periods",
                "cut the episode there, or record it again",
            )
        off = float(np.quantile(abs(change / period - 1), 0.9))
        if off > JITTER and len(change) >= 10:
            step = int(abs(change - period).argmax())
            say(
                "warning",
                step + 1,
                f"{{it}} jitters: a tenth of its steps are more than {off:.0%} off its period "
                f"{period:.4g}",
                "resample it to an even rate",
            )

    def found(self) -> Iterator[Finding]:
        for (name, d), period in self._period.items():
            if period <= 0:
                yield self.finding(
                    "error",
                    "{it} does not grow: most steps have the time of the step before; float32 "
                    "holds no time of day",
                    "count from the start of the episode",
                    field=name,
                    dimension=d,
                )
            elif self.subject.rate:
                rates = [unit / period for unit in UNITS]
                if not any(np.isclose(r, self.subject.rate, rtol=0.1) for r in rates):
                    yield self.finding(
                        "warning",
                        f"{{it}} has {1 / period:.4g} steps in one of its units, and the rate is "
                        f"declared as {self.subject.rate:g} Hz",
                        "correct the rate",
                        field=name,
                        dimension=d,
                    )
        yield from self._found
