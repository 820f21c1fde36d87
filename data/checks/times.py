"""Time stamps, the store's own or fields that are called so: gaps, jitter, order, rate."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from alltrades.data.checks.check import Check
from alltrades.data.checks.findings import Finding, Severity
from alltrades.data.checks.subject import Block

NAME = re.compile(r"(?:.*[._])?(?:time_?stamps?(?:_.*)?|times?|stamps?|t)", re.IGNORECASE)
GAP = 1.6  # periods between two steps
LONG = 10.0  # periods that are an error
JITTER = 0.2  # of a period, by which a tenth of the steps are off
UNITS = {1.0: "s", 1e3: "ms", 1e6: "us", 1e9: "ns"}
OWN = "timestamp"  # what the store's own are called
Key = tuple[str, int] | None  # a field and one of its numbers; None for the store's own


class Times(Check):
    """One finding per episode and kind of fault."""

    kind = "time"

    def __init__(self, *args) -> None:  # type: ignore[no-untyped-def]
        super().__init__(*args)
        self._found: list[Finding] = []
        self._period: dict[Key, float] = {}
        for key in [*self._stamps(), *([] if self.subject.times is None else [None])]:
            change = [np.diff(self._of(b, key))[b.inside] for b in self.sample]
            every = np.concatenate(change) if change else np.zeros(0)
            every = every[np.isfinite(every)]
            if len(every):
                self._period[key] = float(np.median(every))

    def _of(self, block: Block, key: Key) -> np.ndarray:
        """(S,) times of a block, f64."""
        if key is not None:
            return block.values[key[0]][:, key[1]].astype(np.float64)
        return np.zeros(int(block.length.sum())) if block.times is None else block.times

    def _stamps(self) -> Iterator[tuple[str, int]]:
        for name in self.scales:
            size = len(self.scales[name].low)
            named = self.subject.names(name) or ()
            if size == 1 and NAME.fullmatch(name):
                yield name, 0
            for d, word in enumerate(named):
                if NAME.fullmatch(word) and word.lower() != "t" and size > 1:
                    yield name, d

    def _find(self, key: Key, severity: Severity, what: str, remedy: str, *place: int) -> Finding:
        """A finding; {it} is what has the times."""
        field, dimension = key or (OWN, None)
        if key is None:
            what = what.replace("{it}", "its time stamp")
        episode, step = (*place, None, None)[:2]
        return self.finding(severity, what, remedy, episode, step, field, dimension)

    def see(self, block: Block) -> None:
        for key, period in self._period.items():
            x = self._of(block, key)
            for i, (low, count) in enumerate(zip(block.start.tolist(), block.length.tolist())):
                if np.isfinite(x[low]):
                    self._episode(key, period, block.first + i, x[low : low + count])

    def _episode(self, key: Key, period: float, i: int, x: np.ndarray) -> None:
        change = np.diff(x)
        if not len(change) or period <= 0:
            return

        def say(severity: Severity, step: int, what: str, remedy: str) -> None:
            self._found.append(self._find(key, severity, what, remedy, i, step))

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
        for key, period in self._period.items():
            if period <= 0:
                yield self._find(
                    key,
                    "error",
                    "{it} does not grow: most steps have the time of the step before; float32 "
                    "holds no time of day",
                    "count from the start of the episode",
                )
            elif self.subject.rate:
                rates = [unit / period for unit in UNITS] if key is not None else [1 / period]
                if not any(np.isclose(r, self.subject.rate, rtol=0.1) for r in rates):
                    unit = "one of its units" if key is not None else "a second"
                    yield self._find(
                        key,
                        "warning",
                        f"{{it}} has {1 / period:.4g} steps in {unit}, and the rate is declared as "
                        f"{self.subject.rate:g} Hz",
                        "correct the rate",
                    )
        yield from self._found
