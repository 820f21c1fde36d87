"""Worker processes, each with a host of environments.

Nothing slow to import, such as torch, may be imported here: workers would start late.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from alltrades.data.episode import Episode
from alltrades.envs.rollouts import guardian
from alltrades.envs.rollouts.hosts import Command, LaneHost, Reply, Result
from alltrades.envs.rollouts.marks import (
    ALLOWANCE,
    CLOSING,
    DOING,
    IDLE,
    LANE,
    LOADING,
    PHASE,
    SLOW,
    STEPS,
    shared_marks,
)
from alltrades.envs.spec import EnvSpec
from alltrades.errors import UserError
from alltrades.system.compute.spawning import inherited
from alltrades.system.processes import how_it_ended

START_TRIES = 2
PATIENCE = 2.0  # seconds that workers get to end by themselves
PR_SET_PDEATHSIG = 1  # of Linux' prctl


def _serve(pipe: Connection, payload: bytes, marks: Any, parent: int, dies: bool) -> None:
    """Main function of a worker process: (kind, value) messages out; lists of commands in, pickled
    news, None to end.

    parent: its process id. dies: whether the thread that started this process lasts as long.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    os.setpgid(0, 0)  # what environments start is killed with this process
    if dies and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    host = None
    try:
        try:
            specs, experts = pickle.loads(payload)
            host = LaneHost(specs, experts, marks)
        except BaseException:  # a module of the user's that cannot be imported here, for one
            pipe.send(("unstarted", traceback.format_exc()))
            return
        marks[PHASE] = IDLE
        pipe.send(("ready", None))
        while (commands := pipe.recv()) is not None:
            if isinstance(commands, bytes):
                marks[PHASE] = LOADING
                host.learn(*pickle.loads(commands))
                marks[PHASE] = IDLE
                continue
            try:
                replies = host.run(commands)
            except UserError as failure:
                failure.add_note(traceback.format_exc())  # which pickling forgets
                pipe.send(("failure", failure))
                return
            except Exception:
                pipe.send(
                    ("failure", RuntimeError(f"a rollout worker raised\n{traceback.format_exc()}"))
                )
                return
            ended = any(isinstance(value, Episode | Result) for _, value in replies)
            pipe.send(("done", (replies, host.growth() if ended else 0)))
            host.tidy()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent is gone
    finally:
        if host is not None:
            host.close()


class WorkerDied(Exception):
    """A worker process ended without being asked to.

    Attributes:
        cause: how, in words.
        hung: whether it was killed because it gave no answer.
        phase, lane, steps: what it was doing (see `marks`).
    """

    def __init__(self, cause: str, hung: bool, marks: Sequence[int]) -> None:
        super().__init__(cause)
        self.cause, self.hung = cause, hung
        self.phase, self.lane, self.steps = marks[PHASE], marks[LANE], marks[STEPS]


class Worker:
    """A worker process and its pipe.

    Attributes:
        growth: bytes that it had grown by without a reason when it last said so.

    Raises UserError for an environment or expert that cannot be sent to a process.
    """

    def __init__(self, specs: Mapping[str, EnvSpec], experts: Mapping[str, Any]) -> None:
        self._specs, self._experts = dict(specs), dict(experts)
        self._payload = pickled(specs, experts)
        self.failed_starts = 0
        self._prepare()

    def _prepare(self) -> None:
        context = get_context("spawn")
        self.pipe, self._child = context.Pipe()
        self._marks = shared_marks()
        main = threading.current_thread() is threading.main_thread()
        self.process = context.Process(
            target=_serve,
            args=(self._child, self._payload, self._marks, os.getpid(), main),
            daemon=True,
        )
        self.ready, self.growth = False, 0
        self._hung = ""  # what gave no answer, in words
        self._seen, self._still = [*self._marks], 0.0  # marks, and seconds without a change

    def start(self) -> None:
        try:
            with inherited():
                self.process.start()
        finally:
            self._child.close()  # the worker's death then shows as the end of the pipe
        assert self.process.pid is not None
        guardian.watch(self.process.pid)

    def learn(self, specs: Mapping[str, EnvSpec], experts: Mapping[str, Any]) -> None:
        """Tell the process of environments and experts that are not those it has."""
        new = {k: v for k, v in specs.items() if self._specs.get(k) != v}
        taught = {k: v for k, v in experts.items() if self._experts.get(k) is not v}
        if new or taught:
            self._specs.update(new)
            self._experts.update(taught)
            self._payload = pickled(self._specs, self._experts)
            self._send(pickled(new, taught))

    def send(self, commands: Sequence[Command]) -> None:
        """Give the lanes of this worker something to do; a death shows when receiving."""
        self._send(commands)

    def _send(self, value: Any) -> None:
        try:
            self.pipe.send(value)
        except OSError:
            pass

    def look(self, seconds: float, timeout: float) -> None:
        """Kill the process when it does the same thing for longer than `timeout` seconds, of which
        `seconds` have passed since the last look; so too what it leaves behind when it died.
        """
        if self.process.exitcode is not None:
            self._kill()  # a process that an environment started may hold the pipe open
            return
        seen = [*self._marks]
        if seen != self._seen or seen[PHASE] == IDLE:
            self._seen, self._still = seen, 0.0
            return
        self._still += seconds
        limit = timeout * (ALLOWANCE if seen[PHASE] in SLOW else 1)
        if timeout and self._still >= limit and not self.pipe.poll():
            self._hung = f"{DOING[seen[PHASE]]} gave no answer in {limit:g} s"
            self._kill()

    @property
    def closing(self) -> bool:
        """Whether it closes an environment that failed."""
        return bool(self._marks[PHASE] == CLOSING)

    def receive(self) -> list[Reply] | None:
        """Replies, or None for "I am ready". Raises WorkerDied, and UserError of an environment."""
        try:
            if not self.pipe.poll() and self.process.exitcode is not None and not self.pipe.poll():
                raise EOFError
            kind, value = self.pipe.recv()
        except (EOFError, OSError) as error:
            raise self._died() from error
        if kind == "failure":
            raise value
        if kind == "unstarted":
            raise WorkerDied(value, False, self._marks)
        if kind == "ready":
            self.ready, self.failed_starts = True, 0
            return None
        replies, growth = value
        self.growth = growth or self.growth
        return replies

    def restart(self, cause: str) -> None:
        """Replace a dead process. Raises UserError with the cause when it could not even start,
        twice in a row.
        """
        if not self.ready:
            self.failed_starts += 1
            if self.failed_starts >= START_TRIES:
                raise UserError(
                    f"a rollout worker could not start, {self.failed_starts} times in a row: "
                    f"{cause.strip().splitlines()[-1]} (a worker imports the main script, which "
                    'needs `if __name__ == "__main__":`, and the modules of environments and '
                    "experts); to see all of it, step in this process: --rollout.workers 0 "
                    "--rollout.timeout 0"
                )
        self.renew()

    def renew(self) -> None:
        """End the process and start another in its place."""
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
            self._kill()
            self.process.join()
            guardian.forget(self.process.pid)
        self.process.close()

    def _kill(self) -> None:
        """Kill the process and those that its environments started."""
        assert self.process.pid is not None
        guardian.kill_group(self.process.pid)

    def _died(self) -> WorkerDied:
        self.process.join(timeout=PATIENCE)
        cause = self._hung or how_it_ended(self.process.exitcode)
        return WorkerDied(cause, bool(self._hung), self._marks)


def close_all(workers: Sequence[Worker]) -> None:
    """End workers: first asked, then killed. Leaves no process behind."""
    for worker in workers:
        worker.ask_to_end()
    deadline = time.monotonic() + PATIENCE
    for worker in workers:
        worker.end(deadline)


def pickled(specs: Mapping[str, EnvSpec], experts: Mapping[str, Any]) -> bytes:
    """Both as a worker process gets them. Raises UserError for one that cannot be sent."""
    for kind, values in (("environment", specs), ("expert of", experts)):
        for name, value in values.items():
            try:
                pickle.dumps(value)
            except Exception as error:
                raise UserError(
                    f"{kind} '{name}' cannot be sent to a worker process ({error}); expected "
                    "functions and classes at the top of a module; move them there, or step in "
                    "this process: --rollout.workers 0 --rollout.timeout 0"
                ) from error
    return pickle.dumps((dict(specs), dict(experts)))
