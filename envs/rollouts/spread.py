"""Rollouts by an executor of other machines: blocks of episodes, each with the policies beside the
environments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from alltrades.envs.rollouts.crew import Crew
from alltrades.envs.rollouts.hosts import Outcome
from alltrades.envs.rollouts.scheduler import Job, LaneController, Scheduler
from alltrades.envs.rollouts.stepping import outcomes
from alltrades.envs.rollouts.workers import pickled
from alltrades.envs.spec import EnvSpec
from alltrades.system.compute.executor import Ears, Here
from alltrades.system.reporting import Report

LEAST, MOST = 8, 64  # episodes of a block
PICTURES = 8  # episodes of a block that holds pictures, at most
FILLED = 4  # times the lanes of a worker: so many episodes keep most of them busy to the end


@dataclass(frozen=True)
class Play:
    """What all blocks of a rollout share.

    Attributes:
        lanes: of a worker. processes, timeout, growth: of its crew (see `Crew`).
    """

    specs: Mapping[str, EnvSpec]
    experts: Mapping[str, Any]
    controllers: Mapping[str, LaneController]
    lanes: int
    source: str | Callable[[Job], str]
    recorded: bool
    images: Collection[str] | None
    processes: int
    timeout: float
    growth: float


def spread(
    scheduler: Scheduler,
    specs: Mapping[str, EnvSpec],
    experts: Mapping[str, Any],
    controllers: Mapping[str, LaneController],
    crew: Crew,
    progress: Callable[[int, int], None] | None,
    say: Callable[[str], None],
) -> Generator[Outcome, None, None]:
    """How the episodes of a scheduler end, in the order of its jobs.

    Policies are called with batches of the same size as here, so that an episode has the same bits.
    """
    executor = crew.executor
    assert executor is not None
    jobs, slots = scheduler.jobs, executor.slots
    used = {job.policy for job in jobs}
    mine = {key: c for key, c in controllers.items() if key in used}
    batch = max((getattr(c, "batch", 1) for c in mine.values()), default=1)
    lanes = min(scheduler.lanes, max(batch, math.ceil(scheduler.lanes / slots)))
    blocks = _blocks(jobs, lanes, slots, _draws(scheduler, specs))
    pickled(specs, experts)  # raises what cannot be sent
    play = Play(
        specs,
        experts,
        mine,
        lanes,
        scheduler.source,
        scheduler.recorded,
        scheduler.images,
        min(1, crew.workers),
        crew.timeout,
        crew.growth,
    )
    report = Report(_unsaid if progress is None else progress)
    parts = report.parts([len(block) for block in blocks])
    ears = Ears(parts.__getitem__, say)
    for ends in executor.map(run_block, blocks, play, ears):
        yield from ends


def run_block(here: Here, play: Play, jobs: Sequence[Job]) -> list[Outcome]:
    """The episodes of a block; environments, their process and the policies stay for the next."""
    key = play.processes, play.timeout, play.growth
    crew = here.kept.get("crew", key, partial(Crew, *key))
    scheduler = Scheduler(jobs, play.lanes, play.source, play.recorded, play.images)
    return list(
        outcomes(
            scheduler,
            play.specs,
            play.experts,
            play.controllers,
            crew,
            False,
            here.report.progress,
            here.say,
        )
    )


def _unsaid(done: int, total: int) -> None: ...


def _draws(scheduler: Scheduler, specs: Mapping[str, EnvSpec]) -> bool:
    """Whether the answer holds pictures."""
    drawn = specs if scheduler.images is None else scheduler.images
    seen = [s.observation if name in drawn else s.own_observation for name, s in specs.items()]
    kinds = {field.kind for fields in seen for field in fields.values()}
    return scheduler.recorded and "image" in kinds


def _blocks(jobs: Sequence[Job], lanes: int, slots: int, pictures: bool) -> list[list[Job]]:
    """Jobs in their order: large blocks, but at least two for each worker."""
    most = PICTURES if pictures else min(MOST, FILLED * lanes)
    size = max(1, min(max(LEAST, math.ceil(len(jobs) / (2 * slots))), most))
    return [list(jobs[i : i + size]) for i in range(0, len(jobs), size)]
