"""Episodes that are none: numbers that are not finite, one or two steps, lengths that disagree,
texts without words.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from alltrades.data.checks.check import Check
from alltrades.data.checks.findings import Finding
from alltrades.data.checks.subject import Block

SHORT, LONG = 2, 10  # steps of an episode that is none, where half of the others have LONG
OUT = "leave the episode out: --fix does"


class NotFinite(Check):
    """NaN and infinities: one finding per episode and field, at the first."""

    kind = "not finite"

    def __init__(self, *args) -> None:  # type: ignore[no-untyped-def]
        super().__init__(*args)
        self._found: list[Finding] = []

    def see(self, block: Block) -> None:
        for name, bad in block.bad.items():
            seen = set()
            for row, d in np.argwhere(bad):
                episode, step = block.place(int(row))
                if episode in seen:
                    continue
                seen.add(episode)
                low = int(block.start[episode - block.first])
                count = int(bad[low : low + block.length[episode - block.first]].sum())
                what = f"{{it}} is NaN or infinite, {count} numbers of the episode are"
                self._found.append(self.finding("error", what, OUT, episode, step, name, int(d)))

    def found(self) -> Iterator[Finding]:
        yield from self._found


class Short(Check):
    """Episodes of one or two steps where others are long."""

    kind = "short"

    def found(self) -> Iterator[Finding]:
        usual = float(np.median(self.subject.length))
        if usual < LONG:
            return
        for i in np.flatnonzero(self.subject.length <= SHORT):
            count = int(self.subject.length[i])
            what = f"{count} step{'s' * (count > 1)}, where half of the episodes have {usual:g}"
            yield self.finding("error", what, OUT, int(i))


class Lengths(Check):
    """Fields of more or fewer rows than there are steps."""

    kind = "lengths"

    def found(self) -> Iterator[Finding]:
        total = self.subject.total
        for name, rows in self.subject.odd.items():
            first = None
            if rows < total:
                first = int(np.searchsorted(np.cumsum(self.subject.length), rows, side="right"))
            yield self.finding(
                "error",
                f"'{name}' has {rows} rows and the episodes {total} steps",
                "write as many rows of every field; it was not checked further",
                first,
                field=name,
            )


class Texts(Check):
    """Texts without words."""

    kind = "empty text"

    def found(self) -> Iterator[Finding]:
        for name, texts in self.subject.texts.items():
            empty = [i for i, text in enumerate(texts) if not str(text).strip()]
            if len(empty) == len(texts) and empty:
                yield self.finding(
                    "warning",
                    f"'{name}' is empty in all episodes",
                    "leave the field out, or write what was to be done",
                    field=name,
                )
                continue
            for i in empty:
                what = f"'{name}' is empty, and not in other episodes"
                yield self.finding("warning", what, "write what was to be done", i, field=name)
