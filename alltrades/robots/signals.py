"""Signals that ask a running robot to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

# Ctrl-C, kill, a closed terminal, and Ctrl-Z, which would leave a robot moving while nobody steers
# it
NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGTSTP")


class StopSignals:
    """Inside the block the first signal asks to stop; the second interrupts whatever does not
    listen, once.

    While the robot is brought to rest further signals change nothing. SIGHUP stays ignored where it
    was (`nohup`). Elsewhere than in the main thread nothing is handled.

    Attributes:
        halting: tells whether the robot is being brought to rest; set by who drives it.
        ignored: whether a signal came meanwhile.
    """

    def __init__(self) -> None:
        self.halting: Callable[[], bool] = lambda: False
        self.ignored = False
        self._asked = self._interrupted = False
        self._before: dict[int, object] = {}

    @property
    def asked(self) -> bool:
        """Whether a signal came."""
        return self._asked

    def ignore(self) -> None:
        """From now on signals change nothing."""
        self._asked = True
        self.halting = lambda: True

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            numbers = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
            kept = [
                n
                for n in numbers
                if n != getattr(signal, "SIGHUP", None) or signal.getsignal(n) is not signal.SIG_IGN
            ]
            self._before = {number: signal.signal(number, self._handle) for number in kept}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, frame: object) -> None:
        if self._asked and (self._interrupted or self.halting()):
            self.ignored = True
        elif self._asked:
            self._interrupted = (
                True  # a third one could interrupt the stop that the second one leads to
            )
            raise KeyboardInterrupt
        else:
            self._asked = True
