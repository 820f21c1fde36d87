"""Which lane runs which episode, and what becomes of those whose worker died."""

from __future__ import annotations

import math
from bisect import insort
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from alltrades.data.fields import Observation
from alltrades.envs.adapter import EnvironmentFailure
from alltrades.envs.rollouts.hosts import EXPERT, Command, Start
from alltrades.envs.rollouts.marks import ACTIVE, CLOSING, IDLE
from alltrades.envs.rollouts.workers import WorkerDied

AHEAD = 8  # jobs started at most lanes x AHEAD beyond the next one to be handed out: bounds memory
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


class Scheduler:
    """Which lane runs which job. Lanes are dealt to hosts; a host runs at most `cap` episodes of
    one environment. An episode over which a worker died has the next one to itself.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        lanes: int,
        source: str | Callable[[Job], str],
        recorded: bool,
        images: Collection[str] | None = None,
    ) -> None:
        self.jobs, self.source, self.lanes, self.recorded = list(jobs), source, lanes, recorded
        self.images = images
        self._hosts: list[list[int]] = []
        self._cap = 1
        self._waiting: deque[int] = deque(range(len(self.jobs)))
        self._running: dict[int, int] = {}  # lane -> index of its job
        self._deaths: Counter[int] = Counter()
        self._suspects: list[int] = []  # jobs that wait for a worker of their own

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

    def runs(self, host: int) -> bool:
        """Whether episodes run there."""
        return any(lane in self._running for lane in self._hosts[host])

    @property
    def waits(self) -> bool:
        """Whether a job waits for a lane."""
        return bool(self._waiting or self._suspects)

    def lost(
        self, host: int, death: WorkerDied, say: Callable[[str], None]
    ) -> dict[int, EnvironmentFailure]:
        """Put the jobs of a dead host back, in front; returns those that are not tried again.

        One over which it hung has failed. One over which it died is tried again alone, up to
        `DEATHS` deaths; where the worker was at none of them, that is so for all.
        """
        lost = {x: self._running.pop(x) for x in self._hosts[host] if x in self._running}
        blamed: list[int] = []
        if death.phase in ACTIVE and death.lane in lost:
            blamed = [lost[death.lane]]
        elif death.phase == IDLE:
            blamed = sorted(lost.values())
        self._waiting.extendleft(sorted(set(lost.values()) - set(blamed), reverse=True))
        steps = death.steps if death.phase in ACTIVE else 0
        names = [f"'{self.jobs[i].environment}' seed {self.jobs[i].seed}" for i in blamed]
        if death.phase == CLOSING:
            say(
                f"a rollout worker {'hung' if death.hung else f'died ({death.cause})'} when it "
                "closed an environment that had failed; another took its place"
            )
        elif not death.hung and blamed:
            more = f" and {len(names) - 4} more" if len(names) > 4 else ""
            say(
                f"a rollout worker died ({death.cause}) at step {steps} of "
                f"{', '.join(names[:4])}{more}; another took its place"
            )
        failed: dict[int, EnvironmentFailure] = {}
        for index in blamed:
            job, cause, kind = self.jobs[index], death.cause, "hung"
            self._deaths[index] += 1
            if not death.hung:
                if self._deaths[index] < DEATHS:
                    insort(self._suspects, index)
                    continue
                cause, kind = f"it ended {DEATHS} worker processes ({cause})", "raised"
            failed[index] = EnvironmentFailure(job.environment, job.seed, steps, cause, kind)
        return failed

    def fill(
        self, host: int, controllers: Mapping[str, LaneController], handed: int, full: bool
    ) -> list[Command]:
        """Start waiting jobs in the free lanes of a host; where memory is full, only the one that
        is to be handed out next.
        """
        end = handed + (1 if full else AHEAD * self.lanes)
        running = {x: self._running[x] for x in self._hosts[host] if x in self._running}
        if any(self._deaths[index] for index in running.values()):
            return []
        if not running and self._suspects and self._suspects[0] < end:
            index, lane = self._suspects.pop(0), self._hosts[host][0]
            self._running[lane] = index
            return [self._start(lane, self.jobs[index], controllers)]
        free = [x for x in self._hosts[host] if x not in running]
        busy = Counter(self.job(x).environment for x in running)
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
            lane,
            job.environment,
            job.seed,
            source,
            expert,
            job.points,
            needs,
            self.recorded,
            self.images is None or job.environment in self.images,
        )
