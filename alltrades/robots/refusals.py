"""What became of the actions that a robot did not get as they were wanted: one account of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from alltrades.policies.control.controller import RobotController
from alltrades.policies.control.guard import ActionGuard


class Refusals:
    """Actions replaced by a controller's guard or by the loop's, by reason, since it was made;
    "late": actions that came after the timeout, or never, and were not executed.
    """

    def __init__(self, controller: RobotController, guard: ActionGuard) -> None:
        self._controller, self._guard = controller, guard
        self._ignored: Counter[str] = Counter(self._total())
        self.late = 0

    def __getitem__(self, reason: str) -> int:
        return self._total().get(reason, 0) - self._ignored[reason]

    def counts(self) -> dict[str, int]:
        """All of them, in plain values."""
        return {reason: self[reason] for reason in self._total()} | {"late": self.late}

    @contextmanager
    def ignored(self) -> Iterator[None]:
        """What the loop's guard replaces in this block is no fault of the policy."""
        before = dict(self._guard.refusals)
        try:
            yield
        finally:
            for reason, count in self._guard.refusals.items():
                self._ignored[reason] += count - before[reason]

    def _total(self) -> Mapping[str, int]:
        own, inner = self._guard.refusals, self._controller.refusals
        return {reason: own.get(reason, 0) + inner.get(reason, 0) for reason in own | inner}
