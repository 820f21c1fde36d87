"""The only loop that steps environments: continuous batching over lanes and worker processes.

Every started episode is finished and counted. An episode is a function of (policy, environment,
seed) alone: the policy is called with one fixed, padded batch size and one thread, and noise comes
from the episode's own generator. So results are bit-equal for any number of workers, after a
worker's death, and after a resume.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from alltrades.data.episode import Episode
from alltrades.data.fields import Observation
from alltrades.envs.rollouts.crew import Crew
from alltrades.envs.rollouts.hosts import EXPERT, Chunk, Command, Result, Start
from alltrades.envs.rollouts.workers import WorkerDied
from alltrades.envs.spec import EnvSpec
from alltrades.errors import UserError, nearest

AHEAD = 8  # jobs started at most lanes x AHEAD beyond the next one to be handed out: bounds memory
HELD = 1 << 30  # bytes of finished episodes that wait for one before them; above, none is started
DEATHS = 3  # workers that may die over one episode


@dataclass(frozen=True)
class Job:
    """One episode to run: environment, seed, and the key of its controller (or "expert").

    With `points` the episode has `points`, the positions for plots, where the environment offers
    them.
    """

    environment: str
    seed: int
    policy: str
    points: bool = False


class LaneController(Protocol):
    """What acts: see `alltrades.policies.control.controller.Controller`.

    One that has `needs(environment)`, names of fields and a number of frames, is given only those
    fields and as many of the newest frames.
    """

    lanes: int

    def begin(self, lane: int, environment: str, seed: int) -> None: ...

    def plan(self, frames: Mapping[int, Observation]) -> dict[int, np.ndarray]: ...


def rollout(
    jobs: Sequence[Job],
    specs: Mapping[str, EnvSpec],
    controllers: Mapping[str, LaneController],
    *,
    workers: int = 0,
    lanes: int = 32,
    source: str | Callable[[Job], str] = "policy",
    experts: Mapping[str, Any] | None = None,
    crew: Crew | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Generator[Episode, None, None]:
    """Run all jobs and yield their episodes in the order of the jobs. See `results` where only
    their outcome matters.

    Args:
        jobs: episodes; interleave environments, so that few instances of each are built.
        specs: specification of every environment named.
        controllers: controller of every policy key, each with `lanes` lanes.
        workers: processes that step environments; 0 steps them in this one.
        lanes: episodes in flight, whatever the number of workers.
        source: the episodes' source column, or a function of the job.
        experts: experts by environment; default: the registry's. An expert with memory needs
            `reset(seed)`.
        crew: processes kept from one rollout to the next, in place of `workers` new ones.
        progress: called with (episodes finished, all).

    Raises UserError for jobs that cannot run; while it runs, EnvironmentFailure when an environment
    or its expert raises, and RuntimeError when workers keep dying. Closing the generator ends the
    workers.
    """
    scheduler = _Scheduler(jobs, lanes, source, recorded=True)
    return _run(scheduler, specs, controllers, experts, crew, workers, progress)


def results(
    jobs: Sequence[Job],
    specs: Mapping[str, EnvSpec],
    controllers: Mapping[str, LaneController],
    *,
    workers: int = 0,
    lanes: int = 32,
    experts: Mapping[str, Any] | None = None,
    crew: Crew | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Generator[Result, None, None]:
    """The same as `rollout`, but nothing is kept of an episode while it runs and only its result is
    yielded: memory and pipes do not fill with images.
    """
    scheduler = _Scheduler(jobs, lanes, "", recorded=False)
    return _run(scheduler, specs, controllers, experts, crew, workers, progress)


def _run(
    scheduler: _Scheduler,
    specs: Mapping[str, EnvSpec],
    controllers: Mapping[str, LaneController],
    experts: Mapping[str, Any] | None,
    kept: Crew | None,
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> Generator[Any, None, None]:
    jobs, lanes = scheduler.jobs, scheduler.lanes
    workers = workers if kept is None else kept.workers
    _check(jobs, specs, controllers, lanes, workers)
    used = {name: specs[name].steps_alone for name in dict.fromkeys(j.environment for j in jobs)}
    taught = dict.fromkeys(j.environment for j in jobs if j.policy == EXPERT)
    found = {name: (experts or {}).get(name) or _registered_expert(name) for name in taught}
    crew = kept or Crew(min(workers, lanes))
    return _episodes(scheduler, used, found, controllers, crew, kept is None, progress)


def _episodes(
    scheduler: _Scheduler,
    specs: Mapping[str, EnvSpec],
    experts: Mapping[str, Any],
    controllers: Mapping[str, LaneController],
    crew: Crew,
    ends: bool,
    progress: Callable[[int, int], None] | None,
) -> Generator[Any, None, None]:
    """Episodes or results, in the order of the jobs; with `ends` the crew is closed behind them."""
    jobs = scheduler.jobs
    if not jobs:
        return
    with crew.lock:
        scheduler.deal(max(1, crew.workers))
        finished: dict[int, Episode | Result] = {}
        handed, done, held = 0, 0, 0

        def filled(host: int) -> list[Command]:
            return scheduler.fill(host, controllers, handed, full=held > HELD)

        try:
            crew.start(specs, experts)
            for host in range(len(crew)):
                crew.send(host, filled(host))
            while handed < len(jobs):
                commands: dict[int, list[Command]] = {}
                asking: dict[str, dict[int, Observation]] = {}
                for host in crew.wait():
                    try:
                        replies = crew.receive(host)
                    except WorkerDied as death:
                        scheduler.lost(host, str(death))
                        crew.restart(host, str(death))
                        continue  # it is idle now, and filled below
                    if replies is None:
                        continue
                    commands[host] = []
                    for lane, value in replies:
                        if isinstance(value, Episode | Result):
                            finished[scheduler.finish(lane)] = value
                            held += value.nbytes
                            done += 1
                            if progress is not None:
                                progress(done, len(jobs))
                        else:
                            asking.setdefault(scheduler.job(lane).policy, {})[lane] = value
                for key, frames in asking.items():
                    for lane, actions in _plan(key, controllers[key], frames).items():
                        commands[scheduler.host(lane)].append(Chunk(lane, actions))
                for host in commands:
                    crew.send(host, commands[host] + filled(host))
                while handed in finished:
                    held -= finished[handed].nbytes
                    yield finished.pop(handed)
                    handed += 1
                # jobs held back by the look-ahead bound, or given up by a dead worker
                for host in crew.idle():
                    crew.send(host, filled(host))
        finally:
            if ends or handed < len(jobs):  # episodes that nobody waits for are still running
                crew.close()


class _Scheduler:
    """Which lane runs which job. Lanes are dealt to hosts; a host runs at most `cap` episodes of
    one environment.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        lanes: int,
        source: str | Callable[[Job], str],
        recorded: bool,
    ) -> None:
        self.jobs, self.source, self.lanes, self.recorded = list(jobs), source, lanes, recorded
        self._hosts: list[list[int]] = []
        self._cap = 1
        self._waiting: deque[int] = deque(range(len(self.jobs)))
        self._running: dict[int, int] = {}  # lane -> index of its job
        self._deaths: Counter[int] = Counter()

    def deal(self, hosts: int) -> None:
        """Give the lanes to hosts, in turn."""
        self._hosts = [list(range(h, self.lanes, hosts)) for h in range(hosts)]
        kinds = len({j.environment for j in self.jobs})
        # an instance takes longer to build than to run once
        self._cap = max(1, math.ceil(len(self._hosts[0]) / kinds))

    def job(self, lane: int) -> Job:
        return self.jobs[self._running[lane]]

    def host(self, lane: int) -> int:
        return lane % len(self._hosts)

    def finish(self, lane: int) -> int:
        return self._running.pop(lane)

    def lost(self, host: int, cause: str) -> None:
        """Put the jobs of a dead host back, in front."""
        lost = sorted(
            self._running.pop(lane) for lane in self._hosts[host] if lane in self._running
        )
        self._deaths.update(lost)
        self._waiting.extendleft(reversed(lost))
        over = [self.jobs[i] for i in lost if self._deaths[i] >= DEATHS]
        if over:
            names = ", ".join(f"'{j.environment}' seed {j.seed}" for j in over[:4])
            more = f" and {len(over) - 4} more" if len(over) > 4 else ""
            raise RuntimeError(
                f"{DEATHS} rollout workers died ({cause}) over the same episodes: {names}{more}; "
                "run them with workers = 0 to see why"
            )

    def fill(
        self, host: int, controllers: Mapping[str, LaneController], handed: int, full: bool
    ) -> list[Command]:
        """Start waiting jobs in the free lanes of a host; where memory is full, only the one that
        is to be handed out next.
        """
        end = handed + (1 if full else AHEAD * self.lanes)
        free = [x for x in self._hosts[host] if x not in self._running]
        busy = Counter(self.job(x).environment for x in self._hosts[host] if x in self._running)
        commands: list[Command] = []
        skipped: list[int] = []
        while free and self._waiting and self._waiting[0] < end:
            index = self._waiting.popleft()
            job = self.jobs[index]
            if busy[job.environment] >= self._cap:
                skipped.append(index)
                continue
            busy[job.environment] += 1
            lane = free.pop(0)
            self._running[lane] = index
            commands.append(self._start(lane, job, controllers))
        self._waiting.extendleft(reversed(skipped))
        return commands

    def _start(self, lane: int, job: Job, controllers: Mapping[str, LaneController]) -> Start:
        needs, expert = None, job.policy == EXPERT
        if not expert:
            controller = controllers[job.policy]
            controller.begin(lane, job.environment, job.seed)
            if hasattr(controller, "needs"):
                needs = controller.needs(job.environment)
        source = self.source if isinstance(self.source, str) else self.source(job)
        return Start(
            lane, job.environment, job.seed, source, expert, job.points, needs, self.recorded
        )


def _check(
    jobs: Sequence[Job],
    specs: Mapping[str, EnvSpec],
    controllers: Mapping[str, LaneController],
    lanes: int,
    workers: int,
) -> None:
    if lanes < 1 or workers < 0:
        raise UserError(
            f"lanes = {lanes}, workers = {workers}; expected at least 1 lane and 0 workers"
        )
    for environment, policy in dict.fromkeys((j.environment, j.policy) for j in jobs):
        if environment not in specs:
            raise UserError(
                f"a job names environment '{environment}'{nearest(environment, list(specs))}; "
                f"expected one of {', '.join(specs)}"
            )
        if policy != EXPERT and policy not in controllers:
            raise UserError(
                f"a job names policy '{policy}'{nearest(policy, list(controllers))}; expected one "
                f"of {', '.join([EXPERT, *controllers])}"
            )
    for key in dict.fromkeys(j.policy for j in jobs if j.policy != EXPERT):
        if controllers[key].lanes != lanes:
            raise UserError(
                f"controller '{key}' has {controllers[key].lanes} lanes; the rollout has {lanes}; "
                "make them equal"
            )


def _registered_expert(name: str) -> Any:
    from alltrades.envs import registry

    found = registry.expert(name)
    if found is None:
        raise UserError(
            f"environment '{name}' has no scripted expert; register one, or bring demonstrations"
        )
    return found


def _plan(
    key: str, controller: LaneController, frames: dict[int, Observation]
) -> dict[int, np.ndarray]:
    with _single_thread():
        chunks = controller.plan(frames)
    # a lane without actions would never end
    if chunks.keys() != frames.keys() or any(len(c) == 0 for c in chunks.values()):
        raise ValueError(
            f"controller '{key}' planned for lanes {sorted(x for x in chunks if len(chunks[x]))}; "
            f"expected at least one action for each of {sorted(frames)}"
        )
    return chunks


@contextmanager
def _single_thread() -> Iterator[None]:
    """Policies are called with one thread, so that their bits do not depend on the
    machine's cores.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
