"""Worker processes, each with a host of environments.

Nothing slow to import, such as torch, may be imported here: workers would start late.
"""

from __future__ import annotations

import os
import pickle
import signal
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection
from typing import Any

from alltrades.envs.adapter import EnvironmentFailure
from alltrades.envs.rollouts.hosts import Command, LaneHost, Reply
from alltrades.envs.spec import EnvSpec
from alltrades.errors import UserError

START_TRIES = 2
PATIENCE = 2.0  # seconds that workers get to end by themselves
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def _serve(pipe: Connection, payload: bytes) -> None:
    """Main function of a worker process: (kind, value) messages out; lists of commands in, pickled
    news, None to end.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    host = None
    try:
        try:
            host = LaneHost(*pickle.loads(payload))
        except BaseException:  # a module of the user's that cannot be imported here, for one
            pipe.send(("unstarted", traceback.format_exc()))
            return
        pipe.send(("ready", None))
        while (commands := pipe.recv()) is not None:
            if isinstance(commands, bytes):
                host.learn(*pickle.loads(commands))
                continue
            try:
                replies = host.run(commands)
            except (EnvironmentFailure, UserError) as failure:
                failure.add_note(traceback.format_exc())  # which pickling forgets
                pipe.send(("failure", failure))
                return
            except Exception:
                pipe.send(
                    ("failure", RuntimeError(f"a rollout worker raised\n{traceback.format_exc()}"))
                )
                return
            pipe.send(("done", replies))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent is gone
    finally:
        if host is not None:
            host.close()


class WorkerDied(Exception):
    """A worker process ended without being asked to."""


class Worker:
    """A worker process and its pipe.

    Raises UserError for an environment or expert that cannot be sent to a process.
    """

    def __init__(self, specs: Mapping[str, EnvSpec], experts: Mapping[str, Any]) -> None:
        self._specs, self._experts = dict(specs), dict(experts)
        self._payload = _pickled(specs, experts)
        self.failed_starts = 0
        self._prepare()

    def _prepare(self) -> None:
        context = get_context("spawn")
        self.pipe, self._child = context.Pipe()
        self.process = context.Process(
            target=_serve, args=(self._child, self._payload), daemon=True
        )
        self.ready = False

    def start(self) -> None:
        try:
            with _inherited():
                self.process.start()
        finally:
            self._child.close()  # the worker's death then shows as the end of the pipe

    def learn(self, specs: Mapping[str, EnvSpec], experts: Mapping[str, Any]) -> None:
        """Tell the process of environments and experts that are not those it has."""
        new = {k: v for k, v in specs.items() if self._specs.get(k) != v}
        taught = {k: v for k, v in experts.items() if self._experts.get(k) is not v}
        if new or taught:
            self._specs.update(new)
            self._experts.update(taught)
            self._payload = _pickled(self._specs, self._experts)
            self._send(_pickled(new, taught))

    def send(self, commands: Sequence[Command]) -> None:
        """Give the lanes of this worker something to do; a death shows when receiving."""
        self._send(commands)

    def _send(self, value: Any) -> None:
        try:
            self.pipe.send(value)
        except OSError:
            pass

    def receive(self) -> list[Reply] | None:
        """Replies, or None for "I am ready". Raises WorkerDied, and what the environments
        raised.
        """
        try:
            if not self.pipe.poll() and not self.process.is_alive() and not self.pipe.poll():
                # a process that the environment started may still hold the pipe open
                raise EOFError
            kind, value = self.pipe.recv()
        except (EOFError, OSError) as error:
            raise WorkerDied(f"exit code {self._exit_code()}") from error
        if kind == "failure":
            raise value
        if kind == "unstarted":
            raise WorkerDied(value)
        if kind == "ready":
            self.ready, self.failed_starts = True, 0
            return None
        return value

    def restart(self, cause: str) -> None:
        """Replace a dead process. Raises RuntimeError with the cause when it could not even start,
        twice in a row.
        """
        if not self.ready:
            self.failed_starts += 1
            if self.failed_starts >= START_TRIES:
                raise RuntimeError(
                    f"a rollout worker could not start, {self.failed_starts} times in a row: "
                    f"{cause.strip()}\n(a worker imports the main script, which needs "
                    '`if __name__ == "__main__":`; set workers to 0 to see errors in this process)'
                )
        self._end()
        self._prepare()
        self.start()

    def ask_to_end(self) -> None:
        try:
            self.pipe.send(None)
        except OSError:
            pass
        self.pipe.close()  # a worker in the middle of a chunk notices when it replies

    def end(self, deadline: float) -> None:
        """Wait until `deadline` (time.monotonic), then kill."""
        if self.process.pid is not None:
            self.process.join(timeout=max(0.0, deadline - time.monotonic()))
        self._end()

    def _end(self) -> None:
        self.pipe.close()
        if self.process.pid is not None:
            if self.process.is_alive():
                self.process.kill()
            self.process.join()
        self.process.close()

    def _exit_code(self) -> int | None:
        self.process.join(timeout=PATIENCE)
        return self.process.exitcode


def close_all(workers: Sequence[Worker]) -> None:
    """End workers: first asked, then killed. Leaves no process behind."""
    for worker in workers:
        worker.ask_to_end()
    deadline = time.monotonic() + PATIENCE
    for worker in workers:
        worker.end(deadline)


def _pickled(specs: Mapping[str, EnvSpec], experts: Mapping[str, Any]) -> bytes:
    for kind, values in (("environment", specs), ("expert of", experts)):
        for name, value in values.items():
            try:
                pickle.dumps(value)
            except Exception as error:
                raise UserError(
                    f"{kind} '{name}' cannot be sent to a worker process ({error}); expected "
                    "functions and classes at the top of a module; move them there, or set workers "
                    "to 0"
                ) from error
    return pickle.dumps((dict(specs), dict(experts)))


@contextmanager
def _inherited() -> Iterator[None]:
    """What a worker takes over from its parent at the start: one thread for linear algebra, and
    Ctrl-C held back.

    A terminal sends Ctrl-C to all processes; a worker that is still importing would end with a
    traceback of its own.
    """
    resource_tracker.ensure_running()  # starting it later would lift the block
    threads = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for name, value in threads.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
