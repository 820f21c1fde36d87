"""Heads and tails of episodes in which nothing moves."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from alltrades.data.checks.check import Check
from alltrades.data.checks.findings import Finding
from alltrades.data.checks.subject import Block

BALL = 0.02  # of a number's usual range: what is nearer has not moved
LEAST = 5  # steps
TIMES = 5  # as long as leaving the ball usually takes


class Idle(Check):
    """Steps from the start on, or up to the end, in which states and actions stay where they are;
    long ones, by how long it usually takes to move so far.

    Attributes:
        heads, tails: episode, among the subject's -> so many steps.
    """

    kind = "idle"

    def __init__(self, *args) -> None:  # type: ignore[no-untyped-def]
        super().__init__(*args)
        self.heads: dict[int, int] = {}
        self.tails: dict[int, int] = {}
        self._moving = any((s.width > 0).any() for s in self.scales.values())
        self.least = max(LEAST, TIMES * self._usual())

    def _usual(self) -> int:
        """Steps in which half of the middles of episodes leave the ball."""
        steps = 1
        while steps < 64 and self._moving:
            moved: list[np.ndarray] = []
            for block in self.sample:
                middle = block.start + block.length // 2
                fits = block.length // 2 > steps
                moved.append(self.motion(block, middle[fits], middle[fits] + steps) > BALL)
            every = np.concatenate(moved)
            if not len(every) or every.mean() >= 0.5:
                break
            steps *= 2
        return steps

    def see(self, block: Block) -> None:
        if not self._moving:
            return
        last = block.start + block.length - 1
        for begin, sign, out in ((block.start, 1, self.heads), (last, -1, self.tails)):
            here = np.flatnonzero(block.length > self.least)
            for ahead in (self.least, self.least // 2, 1):
                moved = self.motion(block, begin[here], begin[here] + sign * ahead)
                here = here[moved <= BALL]
            for i in here.tolist():
                steps = self._steps(block, int(begin[i]), sign, int(block.length[i]))
                if steps >= self.least:
                    out[block.first + i] = steps

    def _steps(self, block: Block, begin: int, sign: int, length: int) -> int:
        """Steps before the first that has left the ball around `begin`."""
        rows = begin + sign * np.arange(1, length)
        moved = self.motion(block, np.full(length - 1, begin), rows) > BALL
        return int(moved.argmax()) if moved.any() else length

    @property
    def whole(self) -> list[int]:
        """Episodes in which nothing moves at all."""
        return [i for i, n in self.heads.items() if n >= self.subject.length[i]]

    def found(self) -> Iterator[Finding]:
        still = set(self.whole)
        for i in sorted(still):
            what = f"nothing moves in its {self.subject.length[i]} steps"
            yield self.finding("warning", what, "leave the episode out: --fix does", i, 0)
        for i, steps in sorted(self.heads.items()):
            if i not in still:
                what = f"nothing moves in its first {steps} steps"
                yield self.finding("warning", what, "cut them off: --fix does", i, 0)
        for i, steps in sorted(self.tails.items()):
            if i not in still:
                first = int(self.subject.length[i]) - steps
                what = f"nothing moves in its last {steps} steps"
                yield self.finding("warning", what, "cut them off: --fix does", i, first)
