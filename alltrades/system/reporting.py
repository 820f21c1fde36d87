"""Where work says how far it is and what it measures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any


def _nowhere(*_: object) -> None: ...


@dataclass(frozen=True)
class Report:
    """What a piece of work is given to say how far it is and what it measures; it goes nowhere by
    default.

    Attributes:
        show: called with (done, total), such as `Progress.update`; what it raises ends the work.
        record: called with (name, step, values), such as `Tracker.log`.
        name: under which values are recorded.
    """

    show: Callable[[int, int], None] = _nowhere
    record: Callable[[str, int, Mapping[str, Any]], None] = _nowhere
    name: str = ""

    def progress(self, done: int, total: int) -> None:
        """`done` units of `total` are finished, those of an interrupted attempt included."""
        self.show(done, total)

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Values measured at a step."""
        self.record(self.name, step, values)

    def named(self, name: str) -> Report:
        """The same with values recorded under another name."""
        return replace(self, name=name)

    def unrecorded(self) -> Report:
        """The same with values recorded nowhere."""
        return replace(self, record=_nowhere)

    def parts(self, totals: Sequence[int]) -> list[Report]:
        """One for each part of the work, done one after another or beside one another: what they
        have done adds up.

        Args:
            totals: units that each part is expected to be, until it says otherwise.
        """
        done, total = [0] * len(totals), list(totals)

        def part(i: int) -> Report:
            def show(finished: int, units: int) -> None:
                done[i], total[i] = finished, units
                self.show(sum(done), sum(total))

            return replace(self, show=show)

        return [part(i) for i in range(len(totals))]
