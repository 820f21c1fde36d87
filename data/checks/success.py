"""Shares of success."""

from __future__ import annotations

from collections.abc import Iterator

from alltrades.data.checks.check import Check
from alltrades.data.checks.findings import Finding
from alltrades.data.episode import UNKNOWN

LOW = 0.5  # share of successes below which demonstrations are odd
AFTER = 0.5  # share of an episode that comes after its success


class Successes(Check):
    """Demonstrations that do not succeed, or go on long after they did."""

    kind = "success"

    def found(self) -> Iterator[Finding]:
        steps = self.subject.steps
        if steps is None:
            yield self.finding("note", "nothing says success", "say which key does, if one does")
            return
        told = steps.first_success != UNKNOWN
        if not told.any():
            yield self.finding("note", "nothing says success", "say which key does, if one does")
            return
        share = float((steps.first_success[told] > 0).mean())
        if not told.all():
            what = f"{int((~told).sum())} of {len(told)} episodes do not say whether they succeed"
            yield self.finding("warning", what, "say it of all, or of none")
        if share < LOW:
            first = int((told & (steps.first_success <= 0)).argmax())
            yield self.finding(
                "warning",
                f"{share:.0%} of its episodes succeed",
                "leave failures out of what is to be imitated, or check the key of success",
                first,
            )
        else:
            yield self.finding("note", f"{share:.0%} of its episodes succeed", "nothing to do")
        late = (steps.first_success > 0) & (
            steps.lengths - steps.first_success > AFTER * steps.lengths
        )
        if late.any():
            first = int(late.argmax())
            yield self.finding(
                "note",
                f"{int(late.sum())} episodes go on for more than half of their steps after success",
                "cut them there, unless the policy is to hold on",
                first,
                int(steps.first_success[first]),
            )
