"""One live line per stage, with rate and time left, and a plain line where there is no terminal;
one of a running robot.
"""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

_line = threading.Lock()  # of the terminal: of several stages beside one another one is shown live
REDRAW = 0.1  # seconds between updates of the live line: callers may report every gradient step


class Progress:
    """Progress of one stage, on stderr.

    On a terminal a live line shows the share done, the rate and the time left; elsewhere nothing is
    shown meanwhile. Either way one plain line stays when the stage ends well: "specialists  10/10
    12.3 s".

    Args:
        name: the stage.
        total: amount of work, in `unit`.
        unit: singular noun, such as "step" or "episode".
        stream: where to write; default stderr.
        check: called at every report; what it raises ends the stage.
    """

    def __init__(
        self,
        name: str,
        total: int,
        unit: str = "it",
        stream: TextIO | None = None,
        check: Callable[[], None] | None = None,
    ) -> None:
        self.name, self.total, self.unit = name, total, unit
        self.done = 0
        self._stream, self._check = stream, check
        self._live: RichProgress | None = None
        self._task: TaskID | None = None
        self._origin: tuple[int, float] | None = None  # (amount, time) from which the rate counts
        self._drawn = 0.0

    def __enter__(self) -> Progress:
        self._out = self._stream if self._stream is not None else sys.stderr
        self._start = time.monotonic()
        if self._out.isatty() and _line.acquire(blocking=False):
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
            from rich.progress import Progress as RichProgress

            self._live = RichProgress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[pace]}", markup=False),
                console=Console(file=self._out),
                transient=True,
                refresh_per_second=5,
            )
            self._task = self._live.add_task(self.name, total=self.total, pace="")
            self._live.start()
        return self

    def update(self, done: int, total: int | None = None) -> None:
        """Report that `done` of `total` is finished (absolute, so that a resumed stage starts where
        it was).

        `total` replaces the amount of work where that is known now only.
        """
        if self._check is not None:
            self._check()
        now = time.monotonic()
        self.total = self.total if total is None else total
        if self._origin is None:
            # A first report of more than one unit is work of an earlier process: it must not count
            # into the rate.
            self._origin = (done, now) if done > 1 else (0, self._start)
        self.done = done
        if (
            self._live is not None
            and self._task is not None
            and (now - self._drawn >= REDRAW or done >= self.total)
        ):
            self._drawn = now
            self._live.update(self._task, completed=done, total=self.total, pace=self.pace(now))

    def pace(self, now: float) -> str:
        """Rate and time left, such as "12.5 episodes/s  0:40 left"; empty before they can
        be known.
        """
        if self._origin is None:
            return ""
        amount, seconds = self.done - self._origin[0], now - self._origin[1]
        if amount <= 0 or seconds <= 0:
            return ""
        rate = amount / seconds
        speed = (
            f"{rate:.3g} {self.unit}/s"
            if rate >= 1 or self.unit == ""
            else f"{1 / rate:.3g} s/{self.unit}"
        )
        return f"{speed}  {clock((self.total - self.done) / rate)} left"

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
            _line.release()
        if kind is None:
            done = self.done or self.total  # a stage of one piece reports nothing in between
            out = (
                self._stream if self._stream is not None else sys.stderr
            )  # which another stage's live line may have replaced
            out.write(f"{self.name}  {done}/{self.total}  {time.monotonic() - self._start:.1f} s\n")
            out.flush()


class StatusLine:
    """One line on stderr that is written over and over, for a loop that must not wait; nothing
    where there is no terminal. Needs the standard library alone, as a robot's computer may have no
    more.

    Args:
        stream: where to write; default stderr.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._out = stream if stream is not None else sys.stderr
        self._drawn = float("-inf")
        self._shown = self._out.isatty()

    def show(self, text: Callable[[], str]) -> None:
        """Draw what `text` returns, unless the line was drawn a moment ago."""
        now = time.monotonic()
        if self._shown and now - self._drawn >= REDRAW:
            self._drawn = now
            self._out.write(f"\r\x1b[K{text()[: shutil.get_terminal_size().columns - 1]}")
            self._out.flush()

    def clear(self) -> None:
        """Take the line away, for one that stays."""
        if self._shown:
            self._out.write("\r\x1b[K")
            self._out.flush()
        self._drawn = float("-inf")

    def __enter__(self) -> StatusLine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.clear()


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    whole = max(0, round(seconds))
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
