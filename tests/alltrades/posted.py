"""An executor that sends everything as another machine would get it, and does the tasks here."""

from __future__ import annotations

import os
import pickle
from collections.abc import Generator, Iterable, Mapping
from typing import Any

from alltrades.system.compute.executor import Ears, Executor, Function, Here, Kept
from alltrades.system.reporting import Report


def process(here: Here, shared: None, item: int) -> int:
    """A task that tells which process does it."""
    return os.getpid()


def unnamed(report: Report) -> Report:
    """What a task elsewhere has in place of a report, whose name stays here."""

    def record(name: str, step: int, values: Mapping[str, Any]) -> None:
        report.record(name or report.name, step, values)

    return Report(report.show, record)


class Posted(Executor):
    """Functions, items, what is shared, and results cross as bytes.

    Attributes:
        sent: items so far.
    """

    remote = True

    def __init__(self, slots: int = 2) -> None:
        self.slots, self.sent = slots, 0
        self._kept = Kept()

    def map(
        self, function: Function, items: Iterable[Any], shared: Any = None, ears: Ears | None = None
    ) -> Generator[Any, None, None]:
        ears = ears or Ears()
        posted = pickle.dumps(shared)
        for number, item in enumerate(items):
            self.sent += 1
            here = Here(self._kept, unnamed(ears.reports(number)), ears.say, ears.hear)
            function_, item_ = pickle.loads(pickle.dumps((function, item)))
            yield pickle.loads(pickle.dumps(function_(here, pickle.loads(posted), item_)))

    def close(self) -> None:
        self._kept.close()
