"""The only loop that steps environments: continuous batching over lanes and worker processes.

Every started episode is finished and counted. An episode is a function of (policy, environment, seed) alone: the policy is
called with one fixed, padded batch size and one thread, and noise comes from the episode's own generator. So results are
bit-equal for any number of workers, after a worker's death, and after a resume.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any, Protocol

import numpy as np

from alltrades.data.episode import Episode
from alltrades.data.errors import UserError
from alltrades.envs.spec import EnvSpec
from alltrades.envs.workers import EXPERT, Chunk, LaneHost, Reply, Start, Worker, WorkerDied

AHEAD = 8  # jobs started at most lanes x AHEAD beyond the next one to be handed out: bounds memory
DEATHS = 3  # workers that may die over one episode


@dataclass(frozen=True)
class Job:
    """One episode to run: environment, seed, and the key of its controller (or "expert")."""

    environment: str
    seed: int
    policy: str


class LaneController(Protocol):
    """What acts: see `alltrades.policies.controller.Controller`."""

    lanes: int

    def begin(self, lane: int, environment: str, seed: int) -> None: ...

    def plan(self, frames: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]: ...


def rollout(jobs: Sequence[Job], specs: Mapping[str, EnvSpec], controllers: Mapping[str, LaneController], *, workers: int = 0,
            lanes: int = 32, source: str | Callable[[Job], str] = "policy", experts: Mapping[str, Any] | None = None,
            progress: Callable[[int, int], None] | None = None) -> Iterator[Episode]:
    """Run all jobs and yield their episodes in the order of the jobs.

    Args:
        jobs: episodes; interleave environments, so that few instances of each are built.
        specs: specification of every environment named.
        controllers: controller of every policy key, each with at least `lanes` lanes.
        workers: processes that step environments; 0 steps them in this one.
        lanes: episodes in flight, whatever the number of workers.
        source: the episodes' source column, or a function of the job.
        experts: experts by environment; default: the registry's.
        progress: called with (episodes finished, all).

    Raises EnvironmentFailure when an environment raises, UserError for jobs that cannot run. Closing the generator ends
    the workers.
    """
    scheduler = _Scheduler(list(jobs), lanes, max(1, workers), source)
    _check(jobs, specs, controllers, lanes)
    needed = {j.environment for j in jobs if j.policy == EXPERT}
    found = {name: (experts or {}).get(name) or _registered_expert(name) for name in needed}
    crew = _Crew(workers, specs, found)
    finished: dict[int, Episode] = {}
    handed, done = 0, 0
    restore = _single_thread()
    try:
        for host in range(len(crew)):
            crew.send(host, scheduler.fill(host, controllers, handed))
        while handed < len(jobs):
            ready: dict[int, list[Reply]] = {}
            for host in crew.wait():
                try:
                    replies = crew.receive(host)
                except WorkerDied as death:
                    scheduler.lost(host, str(death))
                    crew.restart(host)
                    crew.send(host, scheduler.fill(host, controllers, handed))
                    continue
                if replies is not None:
                    ready[host] = replies
            commands: dict[int, list[Start | Chunk]] = {host: [] for host in ready}
            asking: dict[str, dict[int, np.ndarray]] = {}
            for replies in ready.values():
                for lane, value in replies:
                    if isinstance(value, Episode):
                        finished[scheduler.finish(lane)] = value
                        done += 1
                        if progress is not None:
                            progress(done, len(jobs))
                    else:
                        asking.setdefault(scheduler.job(lane).policy, {})[lane] = value
            for key, frames in asking.items():
                for lane, actions in controllers[key].plan(frames).items():
                    commands[scheduler.host(lane)].append(Chunk(lane, actions))
            for host in ready:
                crew.send(host, commands[host] + scheduler.fill(host, controllers, handed))
            while handed in finished:
                yield finished.pop(handed)
                handed += 1
            for host in crew.idle():  # jobs held back by the look-ahead bound, or given up by a dead worker
                crew.send(host, scheduler.fill(host, controllers, handed))
    finally:
        crew.close()
        restore()


class _Scheduler:
    """Which lane runs which job. Lanes are dealt to hosts; a host runs at most `cap` episodes of one environment."""

    def __init__(self, jobs: list[Job], lanes: int, hosts: int, source: str | Callable[[Job], str]) -> None:
        self.jobs, self.source, self.lanes = jobs, source, lanes
        self._hosts = [list(range(h, lanes, hosts)) for h in range(hosts)]
        kinds = len({j.environment for j in jobs}) or 1
        self._cap = max(1, math.ceil(len(self._hosts[0]) / kinds))
        self._waiting: deque[int] = deque(range(len(jobs)))
        self._running: dict[int, int] = {}  # lane -> index of its job
        self._deaths: dict[int, int] = {}

    def job(self, lane: int) -> Job:
        return self.jobs[self._running[lane]]

    def host(self, lane: int) -> int:
        return lane % len(self._hosts)

    def finish(self, lane: int) -> int:
        return self._running.pop(lane)

    def lost(self, host: int, cause: str) -> None:
        """Put the jobs of a dead host back, in front."""
        for lane in sorted((x for x in self._hosts[host] if x in self._running), reverse=True):
            index = self._running.pop(lane)
            self._deaths[index] = self._deaths.get(index, 0) + 1
            if self._deaths[index] >= DEATHS:
                job = self.jobs[index]
                raise RuntimeError(f"{DEATHS} rollout workers died ({cause}) over the episode of '{job.environment}' with seed {job.seed}")
            self._waiting.appendleft(index)

    def fill(self, host: int, controllers: Mapping[str, LaneController], handed: int) -> list[Start | Chunk]:
        """Start waiting jobs in the free lanes of a host."""
        free = [x for x in self._hosts[host] if x not in self._running]
        busy: dict[str, int] = {}
        for lane in self._hosts[host]:
            if lane in self._running:
                name = self.jobs[self._running[lane]].environment
                busy[name] = busy.get(name, 0) + 1
        commands: list[Start | Chunk] = []
        skipped: list[int] = []
        while free and self._waiting and self._waiting[0] < handed + AHEAD * self.lanes:
            index = self._waiting.popleft()
            job = self.jobs[index]
            if busy.get(job.environment, 0) >= self._cap:
                skipped.append(index)
                continue
            busy[job.environment] = busy.get(job.environment, 0) + 1
            lane = free.pop(0)
            self._running[lane] = index
            if job.policy != EXPERT:
                controllers[job.policy].begin(lane, job.environment, job.seed)
            source = self.source if isinstance(self.source, str) else self.source(job)
            commands.append(Start(lane, job.environment, job.seed, source, job.policy == EXPERT))
        self._waiting.extendleft(reversed(skipped))
        return commands


class _Crew:
    """The hosts: this process, or worker processes. A host that was sent commands is busy until it replied."""

    def __init__(self, workers: int, specs: Mapping[str, EnvSpec], experts: Mapping[str, Any]) -> None:
        self._local = LaneHost(specs, experts) if workers == 0 else None
        self._workers = [Worker(specs, experts) for _ in range(workers)]
        self._pending: list[Start | Chunk] = []
        self._busy = [False] * max(1, workers)

    def __len__(self) -> int:
        return len(self._busy)

    def send(self, host: int, commands: list[Start | Chunk]) -> None:
        if not commands:
            return
        self._busy[host] = True
        if self._local is not None:
            self._pending = commands
        else:
            self._workers[host].send(commands)

    def idle(self) -> list[int]:
        return [h for h, busy in enumerate(self._busy) if not busy]

    def wait(self) -> list[int]:
        """Hosts with something to say."""
        if self._local is not None:
            return [0]
        pipes = {w.pipe: h for h, w in enumerate(self._workers)}
        return sorted(pipes[p] for p in wait(list(pipes)))  # type: ignore[index]

    def receive(self, host: int) -> list[Reply] | None:
        if self._local is not None:
            commands, self._pending = self._pending, []
            self._busy[0] = False
            return self._local.run(commands)
        replies = self._workers[host].receive()
        if replies is not None:
            self._busy[host] = False
        return replies

    def restart(self, host: int) -> None:
        self._busy[host] = False
        self._workers[host].restart()

    def close(self) -> None:
        if self._local is not None:
            self._local.close()
        for worker in self._workers:
            worker.close()


def _check(jobs: Sequence[Job], specs: Mapping[str, EnvSpec], controllers: Mapping[str, LaneController], lanes: int) -> None:
    for job in jobs:
        if job.environment not in specs:
            raise UserError(f"a job names environment '{job.environment}'; expected one of {', '.join(specs)}")
        if job.policy != EXPERT and job.policy not in controllers:
            raise UserError(f"a job names policy '{job.policy}'; expected 'expert' or one of {', '.join(controllers)}")
    for key, controller in controllers.items():
        if controller.lanes != lanes:
            raise UserError(f"controller '{key}' has {controller.lanes} lanes; the rollout has {lanes}; make them equal")


def _registered_expert(name: str) -> Any:
    from alltrades.envs import registry

    found = registry.expert(name)
    if found is None:
        raise UserError(f"environment '{name}' has no scripted expert; register one, or bring demonstrations")
    return found


def _single_thread() -> Callable[[], None]:
    """Policies are called with one thread, so that their bits do not depend on the machine's cores; returns the way back."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    return lambda: torch.set_num_threads(before)
