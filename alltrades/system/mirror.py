"""wandb beside a run, in a process of its own: whatever it does or fails to do, the run goes on.

The run's process writes JSON lines into a pipe: first how wandb is started, then [stage, step,
values]; a closed pipe is the end. The other process answers with {"at": what it begins},
{"error": text} or {"done": true}.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from queue import Full, Queue
from threading import Lock, Thread
from typing import Any, TextIO

WAITING = 10_000  # lines that wait for a slow process; one more, and it is given up
QUIET = {
    "silent",
    "quiet",
    "disable_git",
    "disable_code",
    "x_disable_stats",
    "x_disable_meta",
    "x_disable_machine_info",
}
_CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from alltrades.system.mirror import mirror; mirror()"
)


@dataclass(frozen=True)
class Patience:
    """Seconds that wandb may take to start, for one line, and for all that is left at the end."""

    start: float = 60.0
    log: float = 30.0
    finish: float = 20.0


PATIENCE = Patience()


class Mirror:
    """Sends lines to a process that hands them to wandb; `log` never waits.

    Args:
        init: arguments of `wandb.init`.
        lost: called once, with the cause, when wandb is given up: it raised, it took longer than
            `patience`, its process ended, or lines came faster than it takes them.
        patience: see there.
    """

    def __init__(
        self,
        init: Mapping[str, Any],
        lost: Callable[[str], None],
        patience: Patience = PATIENCE,
    ) -> None:
        self._lost, self._patience = lost, patience
        self._over, self._lock = False, Lock()
        self._lines: Queue[str | None] = Queue(WAITING)
        first = {"init": dict(init), "patience": asdict(patience), "parent": os.getpid()}
        self._lines.put(_line(first))
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CHILD, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            start_new_session=True,  # no Ctrl-C reaches it: the run ends it
        )
        self._reader = Thread(target=self._read, name="wandb-answers", daemon=True)
        self._reader.start()
        Thread(target=self._write, name="wandb-lines", daemon=True).start()

    def log(self, stage: str, step: int, values: Mapping[str, Any]) -> None:
        """Hand a line over; nothing once wandb is given up."""
        if self._over:
            return
        try:
            self._lines.put_nowait(_line([stage, step, dict(values)]))
        except Full:
            self._give_up(f"{WAITING} lines wait for it")

    def finish(self) -> None:
        """Wait until wandb has taken everything, at most `patience.finish` seconds."""
        end = time.monotonic() + self._patience.finish
        if not self._over:
            with suppress(Full):
                self._lines.put(None, timeout=self._patience.finish)
            self._reader.join(max(0.0, end - time.monotonic()))
        self._give_up(f"not done {self._patience.finish:g} s after the run")

    def _write(self) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):  # it ended: `_read` says why
            while not self._over and (line := self._lines.get()) is not None:
                self._process.stdin.write(line)
                self._process.stdin.flush()
        with suppress(OSError):
            self._process.stdin.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        at, since, cause = "start", time.monotonic(), ""
        for line in self._process.stdout:
            said = json.loads(line)
            if said.get("done"):
                self._over = True
            cause = said.get("error", cause)
            if "at" in said:
                at, since = said["at"], time.monotonic()
        self._process.wait()
        limit = asdict(self._patience)[at]
        if not cause and time.monotonic() - since > 0.9 * limit:
            cause = f"no answer at its {at} within {limit:g} s"
        self._give_up(cause or f"its process ended at its {at}")

    def _give_up(self, cause: str) -> None:
        """End the process and say so, where it has not ended well and nothing was said yet."""
        with self._lock:
            over, self._over = self._over, True
        if over:
            return
        with suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with suppress(Full):
            self._lines.put_nowait(None)  # wakes the thread that waits for lines
        self._lost(re.sub(r"\s+", " ", cause)[:200])


def _line(value: Any) -> str:
    return json.dumps(value, default=_plain) + "\n"


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


# ---- the other process ---------------------------------------------------------------------------
def mirror() -> None:
    """Main function of the process: lines of stdin to wandb, until it is closed."""
    # copies, which processes that wandb starts do not inherit
    lines, answers = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w")
    nothing = open(os.devnull, "r+")
    for stream in (0, 1):
        os.dup2(nothing.fileno(), stream)
    try:
        _hand_over(lines, answers, nothing)
        answer: dict[str, bool | str] = {"done": True}
    except BaseException as error:
        answer = {"error": str(error) or type(error).__name__}
    _say(answers, answer)
    os._exit(0)  # what wandb registered for the end of a process may hang


def _hand_over(lines: TextIO, answers: TextIO, nothing: TextIO) -> None:
    first = json.loads(lines.readline())

    def begin(what: str) -> None:
        # ends the process from a thread in C, also while Python's lock is held
        faulthandler.dump_traceback_later(first["patience"][what], exit=True, file=nothing)

    begin("start")
    _say(answers, {"at": "start"})
    import wandb

    logging.getLogger("wandb").setLevel(logging.ERROR)
    known = set(wandb.Settings.model_fields)
    quiet = {"console": "off", **dict.fromkeys(QUIET, True)}
    settings = wandb.Settings(**{k: v for k, v in quiet.items() if k in known})
    run = wandb.init(**first["init"], settings=settings)
    _say(answers, {"at": "log"})
    defined: set[str] = set()
    for line in lines:
        if os.getppid() != first["parent"]:
            break  # nobody is there to wait for the rest
        begin("log")
        stage, step, values = json.loads(line)
        if stage not in defined:  # every stage counts its own steps, wandb's one counter only up
            defined.add(stage)
            run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
        run.log({f"{stage}/step": step, **{f"{stage}/{k}": v for k, v in values.items()}})
        faulthandler.cancel_dump_traceback_later()
    begin("finish")
    _say(answers, {"at": "finish"})
    run.finish()
    wandb.teardown()


def _say(answers: TextIO, answer: Mapping[str, Any]) -> None:
    with suppress(OSError):
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
