"""Tasks in processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Generator, Iterable
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any

from alltrades.errors import UserError
from alltrades.system.compute.executor import Ears, Executor, Function, Kept
from alltrades.system.compute.news import caught, heard, telling, told
from alltrades.system.compute.spawning import inherited

AHEAD = 2  # times the processes: tasks whose results may wait for one before them
PAUSE = 0.1  # seconds that are waited for news at most
DONE, FAILED = -1, -2  # kinds of a task's last word, beside those of news
GRACE = 2.0  # seconds that a process gets to end by itself
_CONTEXT = multiprocessing.get_context("spawn")


def _nothing() -> None: ...


class Processes(Executor):
    """At most `slots` processes for every thread that asks, started when they are needed and kept
    for the next task; they end when this one does, however it ends.

    Args:
        prepare: what each does first, such as loading plugins.
        remedy: what to do where one dies, for the user.

    Raises UserError where a process dies over a task.
    """

    remote, near = True, True

    def __init__(
        self, slots: int, prepare: Callable[[], None] = _nothing, remedy: str = ""
    ) -> None:
        self.slots, self._remedy = slots, remedy
        self._prepare = pickle.dumps(prepare)
        self._lock = threading.Lock()
        self._idle: list[_Process] = []

    def map(
        self, function: Function, items: Iterable[Any], shared: Any = None, ears: Ears | None = None
    ) -> Generator[Any, None, None]:
        ears, items = ears or Ears(), iter(items)
        running: dict[_Process, int] = {}
        logged: dict[int, dict[str, int]] = {}
        results: dict[int, tuple[int, Any]] = {}
        read, handed, ended = 0, 0, False
        try:
            while True:
                while (
                    not ended and len(running) < self.slots and read < handed + AHEAD * self.slots
                ):
                    item = next(items, self)
                    ended = item is self
                    if not ended:
                        process = self._take()
                        running[process], logged[read] = read, {}
                        process.send((function, shared, item))
                        read += 1
                while handed in results:
                    kind, value = results.pop(handed)
                    if kind == FAILED:
                        raise told(*value)
                    handed += 1
                    yield value
                if ended and handed == read:
                    return
                for process in _with_news(running):
                    kind, value = self._received(process)
                    number = running[process]
                    if kind in (DONE, FAILED):
                        results[number] = kind, value
                        del running[process]
                        with self._lock:
                            self._idle.append(process)
                    else:
                        heard(ears, number, logged[number], kind, value)
                self.check()
        finally:
            for process in running:  # nobody waits for them any more
                process.kill()

    def _take(self) -> _Process:
        with self._lock:
            while self._idle:
                process = self._idle.pop()
                if process.process.is_alive():
                    return process
                process.kill()
        return _Process(self._prepare)

    def _received(self, process: _Process) -> tuple[int, Any]:
        try:
            kind, value = process.pipe.recv()
        except (EOFError, OSError) as error:
            raise UserError(
                f"a process of this command died over its work ({process.cause()}); expected it to "
                "end well, as it may with more memory, or where the main script has "
                f'`if __name__ == "__main__":`{self._remedy}'
            ) from error
        return kind, value

    def close(self) -> None:
        """End the processes; later tasks start others."""
        with self._lock:
            idle, self._idle = self._idle, []
        for process in idle:
            process.end()


class _Process:
    """A process and the pipe to it."""

    def __init__(self, prepare: bytes) -> None:
        self.pipe, there = _CONTEXT.Pipe()
        self.process = _CONTEXT.Process(target=_serve, args=(there, prepare), daemon=True)
        try:
            with inherited():
                self.process.start()
        finally:
            there.close()  # its death then shows as the end of the pipe

    def send(self, work: Any) -> None:
        """Give it a task; a death shows when receiving."""
        try:
            self.pipe.send(work)
        except OSError:
            pass

    def cause(self) -> str:
        """How it ended, in words."""
        self.process.join(GRACE)
        code = self.process.exitcode
        named = code is not None and -code in {s.value for s in signal.Signals}
        return signal.Signals(-code).name if code and named else f"exit code {code}"

    def end(self) -> None:
        """Let it end, which it does when it has nothing more to read."""
        self.pipe.close()
        self.process.join(GRACE)
        self.kill()

    def kill(self) -> None:
        """End it in the middle of its work."""
        self.pipe.close()
        self.process.kill()
        self.process.join()


def _with_news(running: Iterable[_Process]) -> list[_Process]:
    found = wait([process.pipe for process in running], PAUSE)
    return [process for process in running if process.pipe in found]


# ---- in the processes ----------------------------------------------------------------------------
def _serve(pipe: Connection, prepare: bytes) -> None:
    """Main function of a process: tasks in; (kind, value) out, DONE or FAILED at a task's end."""
    end_with_parent()
    here = telling(lambda kind, value: pipe.send((kind, value)), Kept())

    def carry_out(work: bytes) -> None:
        function, shared, item = pickle.loads(work)
        replies.append(pickle.dumps((DONE, function(here, shared, item))))

    unready = caught(lambda: pickle.loads(prepare)())
    try:
        while True:
            replies: list[bytes] = []
            failed = unready or caught(partial(carry_out, pipe.recv_bytes()))
            pipe.send_bytes(pickle.dumps((FAILED, failed)) if failed else replies[0])
    except (EOFError, OSError):
        return  # the parent needs it no more
    finally:
        here.kept.close()


def end_with_parent() -> None:
    """End this process when its parent has ended: else one that waits for work does so for ever
    where its parent was killed.
    """
    parent = multiprocessing.parent_process()

    def wait_for_it() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait_for_it, daemon=True).start()
