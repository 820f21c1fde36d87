"""Tasks in processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterable
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any

from alltrades.errors import UserError
from alltrades.system.compute.executor import Ears, Executor, Function, Kept, unsent
from alltrades.system.compute.news import caught, heard, telling, told
from alltrades.system.compute.spawning import inherited
from alltrades.system.processes import how_it_ended

AHEAD = 2  # times the processes: tasks whose results may wait for one before them
PAUSE = 0.1  # seconds that are waited for news at most
DONE, FAILED, READY = -1, -2, -3  # what processes say beside news of tasks
GRACE = 2.0  # seconds that a process gets to end by itself
_CONTEXT = multiprocessing.get_context("spawn")


class Processes(Executor):
    """At most `slots` processes for every thread that asks, started when they are needed and kept
    for the next task; they end when this one does, however it ends. Tasks start no processes.

    Args:
        prepare: what each does first, such as loading plugins.
        remedy: what to do where one dies, for the user.

    Raises UserError where a process dies over a task, and Unsent for one that cannot be sent.
    """

    remote, near = True, True

    def __init__(
        self, slots: int, prepare: Callable[[], object] | None = None, remedy: str = ""
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
                        process.give((function, shared, item))
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
                    if kind == READY:
                        process.send()
                    elif kind in (DONE, FAILED):
                        results[number] = kind, value
                        del running[process]
                        self._keep(process)
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

    def _keep(self, process: _Process) -> None:
        """For the next task; not one that never got ready."""
        if not process.ready:
            process.kill()
            return
        with self._lock:
            self._idle.append(process)

    def _received(self, process: _Process) -> tuple[int, Any]:
        try:
            return process.receive()
        except (EOFError, OSError) as error:
            raise UserError(
                f"a process of this command died over its work ({process.cause()}); expected it to "
                "end well, as it may with more memory, or where the main script has "
                f'`if __name__ == "__main__":`{self._remedy}'
            ) from error

    def close(self) -> None:
        """End the processes; later tasks start others."""
        with self._lock:
            idle, self._idle = self._idle, []
        for process in idle:
            process.pipe.close()  # it has nothing more to read, and ends
        deadline = time.monotonic() + GRACE
        for process in idle:
            process.process.join(max(0.0, deadline - time.monotonic()))
            process.kill()


class _Process:
    """A process, the pipe to it, and its folder of temporary files.

    Attributes:
        ready: it has said so, and has since been sent what it was given.
    """

    def __init__(self, prepare: bytes) -> None:
        self.pipe, there = _CONTEXT.Pipe()
        self.ready, self._given = False, b""
        self._folder = tempfile.mkdtemp(prefix="alltrades-process-")
        self.process = _CONTEXT.Process(
            target=_serve, args=(there, prepare, self._folder), daemon=True
        )
        try:
            with inherited():
                self.process.start()
        finally:
            there.close()  # its death then shows as the end of the pipe

    def give(self, work: Any) -> None:
        """Give it a task, which it is sent as soon as it can read it. Raises Unsent."""
        try:
            self._given = pickle.dumps(work)
        except Exception as error:
            raise unsent(error) from error
        if self.ready:
            self.send()

    def send(self) -> None:
        """Send what it was given; a death shows when receiving."""
        self.ready = True
        try:
            self.pipe.send_bytes(self._given)
        except OSError:
            pass
        self._given = b""

    def receive(self) -> tuple[int, Any]:
        """(kind, value). Raises EOFError where it is dead, even where something that it started
        holds the pipe open.
        """
        if not self.pipe.poll() and not self.process.is_alive() and not self.pipe.poll():
            raise EOFError
        kind, value = self.pipe.recv()
        return kind, value

    def cause(self) -> str:
        """How it ended, in words."""
        self.process.join(GRACE)
        return how_it_ended(self.process.exitcode)

    def kill(self) -> None:
        """End it, also in the middle of its work."""
        self.pipe.close()
        if self.process.pid is not None:
            self.process.kill()
            self.process.join()
        shutil.rmtree(self._folder, ignore_errors=True)


def _with_news(running: Iterable[_Process]) -> list[_Process]:
    waited: dict[Any, _Process] = {x: p for p in running for x in (p.pipe, p.process.sentinel)}
    found = wait(list(waited), PAUSE)
    return list(dict.fromkeys(waited[x] for x in found))


# ---- in the processes ----------------------------------------------------------------------------
def _serve(pipe: Connection, prepare: bytes, folder: str) -> None:
    """Main function of a process: READY, or FAILED, at its start; tasks in; (kind, value) out, DONE
    or FAILED at a task's end.
    """
    end_with_parent()
    tempfile.tempdir = folder
    here = telling(lambda kind, value: pipe.send((kind, value)), Kept())

    def get_ready() -> None:
        if (first := pickle.loads(prepare)) is not None:
            first()

    def carry_out(given: list[bytes]) -> None:
        try:
            function, shared, item = pickle.loads(given.pop())  # which nothing holds any more
        except Exception as error:
            raise unsent(error) from error
        replies.append(pickle.dumps((DONE, function(here, shared, item))))

    try:
        if (failed := caught(get_ready)) is not None:
            pipe.send((FAILED, failed))
            return
        pipe.send((READY, None))
        while True:
            replies: list[bytes] = []
            failed = caught(partial(carry_out, [pipe.recv_bytes()]))
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
