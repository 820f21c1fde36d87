"""Runs of a study beside one another, each in a process of its own.

On a Ray cluster every one of them is a driver of the same cluster, which shares its workers out
among them.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alltrades.errors import UserError
from alltrades.system.compute.processes import end_with_parent

if TYPE_CHECKING:
    from alltrades.settings.compute import ComputeSettings

AT_ONCE = (  # the setting of studies, in words
    "runs beside one another, each in a process of its own, with the processors and threads that "
    "one has alone"
)
GRACE = 10.0  # seconds in which a run that is given up tidies up


@dataclass(frozen=True)
class StudyRun:
    """One run of a study.

    Attributes:
        title: for the user.
        folder: where it works.
        call: function of a module, called as `call(*args, relatives)`; `relatives` are folders of
            runs that have ended.
        after: number of the run that it waits for, from which it may take much over.
    """

    title: str
    folder: Path
    call: Callable[..., Any]
    args: tuple[Any, ...]
    after: int | None = None


def carry_out(runs: Sequence[StudyRun], at_once: int, compute: ComputeSettings) -> list[Any]:
    """What the runs return, in their order; at most so many run at the same time. With 1 they run
    in this process.

    Each is the same bit for bit however many run beside it. The first that fails ends the others,
    which go on where they were when the study is run again.
    """
    if at_once == 1:
        out: list[Any] = []
        for i, run in enumerate(runs):
            _announce(i, runs)
            out.append(run.call(*run.args, [r.folder for r in runs[:i]]))
        return out
    return _Processes(runs, at_once, _cluster_of(compute)).run()


def _announce(i: int, runs: Sequence[StudyRun]) -> None:
    print(f"run {i + 1} of {len(runs)}: {runs[i].title}", file=sys.stderr)


def _cluster_of(compute: ComputeSettings) -> dict[str, str]:
    """Environment variables by which another process finds the cluster of this one."""
    if compute.on != "ray":  # an address says it itself
        return {}
    import ray

    return {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}


class _Processes:
    """One call of `carry_out` with several processes."""

    def __init__(self, runs: Sequence[StudyRun], at_once: int, variables: dict[str, str]) -> None:
        self.runs, self.at_once, self.variables = runs, at_once, variables
        self._spawn = multiprocessing.get_context("spawn")
        self._waiting = list(range(len(runs)))
        self._running: dict[Connection, tuple[int, SpawnProcess]] = {}
        self._found: dict[int, Any] = {}

    def run(self) -> list[Any]:
        try:
            while self._waiting or self._running:
                self._start()
                for connection in wait(list(self._running)):
                    assert isinstance(connection, Connection)
                    self._take(connection)
        finally:
            self._end()
        return [self._found[i] for i in range(len(self.runs))]

    def _start(self) -> None:
        """Start runs that need not wait, in their order, as long as there is room."""
        for i in list(self._waiting):
            run = self.runs[i]
            if len(self._running) == self.at_once:
                return
            if run.after is not None and run.after not in self._found:
                continue
            self._waiting.remove(i)
            _announce(i, self.runs)
            ended = [self.runs[k].folder for k in sorted(self._found)]
            here, there = self._spawn.Pipe(duplex=False)
            process = self._spawn.Process(
                target=_carry_out, args=(there, run.title, run.call, run.args, ended)
            )
            before = {name: os.environ.get(name) for name in self.variables}
            os.environ.update(self.variables)
            try:
                process.start()
            finally:
                for name, value in before.items():
                    os.environ.pop(name) if value is None else os.environ.update({name: value})
            there.close()
            self._running[here] = i, process

    def _take(self, connection: Connection) -> None:
        """What a run says at its end. Raises UserError where it failed."""
        i, process = self._running.pop(connection)
        try:
            kind, value = connection.recv()
        except EOFError:
            process.join()
            raise UserError(
                f"{self.runs[i].title}: its process ended by itself (exit code "
                f"{process.exitcode}); expected it to finish; give the same command again, which "
                "goes on where it was, with fewer runs at once where memory is short (--at_once)"
            ) from None
        process.join()
        if kind == "failed":
            raise UserError(f"{self.runs[i].title}: {value}")
        if kind == "broken":
            raise RuntimeError(f"{self.runs[i].title}:\n{value}")
        self._found[i] = value

    def _end(self) -> None:
        for _, process in self._running.values():
            process.terminate()
        for _, process in self._running.values():
            process.join(GRACE)
            if process.is_alive():
                process.kill()
                process.join()


# ---- in the process of a run ---------------------------------------------------------------------
def _carry_out(
    connection: Connection,
    title: str,
    call: Callable[..., Any],
    args: tuple[Any, ...],
    relatives: list[Path],
) -> None:
    end_with_parent()
    sys.stderr = _Titled(sys.stderr, title)  # type: ignore[assignment]
    try:
        said = "done", call(*args, relatives)
    except UserError as error:
        said = "failed", str(error)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception:
        said = "broken", traceback.format_exc()
    connection.send(said)


class _Titled:
    """A stream whose lines begin with the title of a run; whole lines at a time."""

    def __init__(self, stream: Any, title: str) -> None:
        self._stream, self._title, self._line = stream, title, ""

    def write(self, text: str) -> int:
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._stream.write(f"{self._title}: {line}\n")
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        """No live line: other runs write, too."""
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
