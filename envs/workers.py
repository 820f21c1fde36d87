"""Hosts of environments: they step lanes by whole chunks, in this process or in worker processes. Torch is not imported here."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from alltrades.data.episode import Episode
from alltrades.envs.adapter import EnvAdapter, EnvironmentFailure
from alltrades.envs.spec import EnvSpec

EXPERT = "expert"  # policy key of jobs whose expert runs beside the environment
START_TRIES = 2


@dataclass(frozen=True)
class Start:
    """Begin an episode in a lane; with `expert` it runs to its end at once."""

    lane: int
    environment: str
    seed: int
    source: str
    expert: bool


@dataclass(frozen=True)
class Chunk:
    """Execute actions (k, A) in a lane, until the episode ends."""

    lane: int
    actions: np.ndarray


@dataclass
class _Lane:
    adapter: EnvAdapter
    start: Start
    observations: list[np.ndarray]
    actions: list[np.ndarray] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    successes: list[bool] = field(default_factory=list)


Reply = tuple[int, "np.ndarray | Episode"]  # lane, and new observations (k, D) or the finished episode


class LaneHost:
    """Owns environments and the episodes that run in them.

    Environments are built when first needed and reused. Memory: O(lanes x episode length).
    """

    def __init__(self, specs: Mapping[str, EnvSpec], experts: Mapping[str, Callable[[np.ndarray], np.ndarray]]) -> None:
        self.specs, self.experts = specs, experts
        self._lanes: dict[int, _Lane] = {}
        self._free: dict[str, list[EnvAdapter]] = {}

    def run(self, commands: list[Start | Chunk]) -> list[Reply]:
        """Carry out one command per lane; replies in the same order. Raises EnvironmentFailure."""
        return [self._start(c) if isinstance(c, Start) else self._chunk(c) for c in commands]

    def close(self) -> None:
        for adapter in [*(lane.adapter for lane in self._lanes.values()), *(a for free in self._free.values() for a in free)]:
            adapter.close()
        self._lanes.clear()
        self._free.clear()

    def _start(self, command: Start) -> Reply:
        free = self._free.setdefault(command.environment, [])
        adapter = free.pop() if free else EnvAdapter(self.specs[command.environment])
        lane = self._lanes[command.lane] = _Lane(adapter, command, [adapter.reset(command.seed)])
        if not command.expert:
            return command.lane, lane.observations[0][None]
        expert = self.experts[command.environment]
        if hasattr(expert, "reset"):
            expert.reset(command.seed)
        while not self._step(lane, expert(adapter.expert_observation)):
            pass
        return command.lane, self._finish(command.lane)

    def _chunk(self, command: Chunk) -> Reply:
        lane = self._lanes[command.lane]
        before = len(lane.observations)
        for action in command.actions:
            if self._step(lane, action):
                return command.lane, self._finish(command.lane)
        return command.lane, np.stack(lane.observations[before:])

    def _step(self, lane: _Lane, action: np.ndarray) -> bool:
        result = lane.adapter.step(action)
        lane.actions.append(lane.adapter.action)
        lane.rewards.append(result.reward)
        lane.successes.append(result.success)
        lane.observations.append(result.observation)
        return result.done

    def _finish(self, index: int) -> Episode:
        lane = self._lanes.pop(index)
        start = lane.start
        self._free[start.environment].append(lane.adapter)
        successes = np.array(lane.successes, dtype=bool)
        hit = bool(successes.any())
        return Episode({"observation": np.stack(lane.observations[:-1])}, np.stack(lane.actions),
                       np.array(lane.rewards, dtype=np.float32), successes, start.environment, start.source, start.seed, hit,
                       int(successes.argmax()) + 1 if hit else -1, float(np.sum(lane.rewards)))


def _serve(pipe: Connection, specs: Mapping[str, EnvSpec], experts: Mapping[str, Any]) -> None:
    """Main function of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    host = LaneHost(specs, experts)
    pipe.send(("ready", None))
    try:
        while (commands := pipe.recv()) is not None:
            try:
                pipe.send(("done", host.run(commands)))
            except EnvironmentFailure as failure:
                pipe.send(("failure", failure))
                return
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent is gone
    finally:
        host.close()


class WorkerDied(Exception):
    """A worker process ended without being asked to."""


class Worker:
    """A worker process and its pipe; started when made, replaced by `restart`."""

    def __init__(self, specs: Mapping[str, EnvSpec], experts: Mapping[str, Any]) -> None:
        self._args = (dict(specs), dict(experts))
        self.failed_starts = 0
        self._spawn()

    def _spawn(self) -> None:
        context = get_context("spawn")
        self.pipe, child = context.Pipe()
        self.process = context.Process(target=_serve, args=(child, *self._args), daemon=True)
        threads = {k: os.environ.get(k) for k in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        os.environ.update(dict.fromkeys(threads, "1"))  # a worker steps environments: one core
        try:
            self.process.start()
        finally:
            for key, value in threads.items():
                os.environ.pop(key) if value is None else os.environ.__setitem__(key, value)
        child.close()
        self.ready = False

    def send(self, commands: list[Start | Chunk]) -> None:
        """Give the lanes of this worker something to do; a death shows when receiving."""
        try:
            self.pipe.send(commands)
        except (BrokenPipeError, ConnectionResetError, OSError):
            pass

    def receive(self) -> list[Reply] | None:
        """Replies, or None for "I am ready". Raises EnvironmentFailure, WorkerDied."""
        try:
            kind, value = self.pipe.recv()
        except (EOFError, ConnectionResetError, OSError) as error:
            raise WorkerDied(f"exit code {self._exit_code()}") from error
        if kind == "failure":
            raise value
        if kind == "ready":
            self.ready, self.failed_starts = True, 0
            return None
        return value

    def restart(self) -> None:
        """Replace a dead process. Raises RuntimeError when it could not even start, twice in a row."""
        code = self._exit_code()
        if not self.ready:
            self.failed_starts += 1
            if self.failed_starts >= START_TRIES:
                raise RuntimeError(f"a rollout worker could not start, {self.failed_starts} times in a row (exit code {code}); its own "
                                   "message stands above. A script that starts workers needs `if __name__ == \"__main__\":`")
        self.pipe.close()
        self._spawn()

    def close(self) -> None:
        try:
            self.pipe.send(None)
        except (BrokenPipeError, ConnectionResetError, OSError):
            pass
        self.pipe.close()
        self.process.join(timeout=2)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()

    def _exit_code(self) -> int | None:
        self.process.join(timeout=5)
        return self.process.exitcode
