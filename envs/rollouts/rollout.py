"""Rollouts of policies and experts: by processes of this machine, or by those of a cluster.

Every started episode is finished and counted. An episode is a function of (policy, environment,
seed) alone: the policy is called with one fixed, padded batch size and one thread, and noise comes
from the episode's own generator. So results are bit-equal for any number of workers, after a
worker's death, and after a resume.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import closing
from typing import Any

import numpy as np

from alltrades.data.episode import Episode
from alltrades.envs.adapter import EnvironmentFailure
from alltrades.envs.rollouts.crew import Crew
from alltrades.envs.rollouts.faults import Faults, line
from alltrades.envs.rollouts.hosts import EXPERT, Outcome, Result
from alltrades.envs.rollouts.scheduler import Job, LaneController, Scheduler
from alltrades.envs.rollouts.spread import spread
from alltrades.envs.rollouts.stepping import outcomes
from alltrades.envs.spec import EnvSpec
from alltrades.errors import UserError, nearest


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
    faults: Faults | None = None,
    images: Collection[str] | None = None,
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
        faults: collects the episodes that their environments could not finish, which are left
            out; default: the first ends the rollout.
        images: environments whose episodes have the pictures of cameras, drawn at every step;
            default: all. Of others they are drawn where a policy looks alone, and may be later,
            for those that are kept: see `replay`.

    Raises UserError for jobs that cannot run, and while it runs for an environment that breaks its
    contract and for workers that cannot start; EnvironmentFailure as `faults` decides when an
    environment or its expert raises, hangs or kills its workers. Closing the generator ends the
    workers.
    """
    scheduler = Scheduler(jobs, lanes, source, recorded=True, images=images)
    faults = faults or Faults("fail")
    return _run(scheduler, specs, controllers, experts, crew, workers, progress, faults)


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
    faults: Faults | None = None,
) -> Generator[Result, None, None]:
    """The same as `rollout`, but nothing is kept of an episode while it runs and only its result is
    yielded: memory and pipes do not fill with images. An episode that its environment could not
    finish has a result, too.
    """
    scheduler = Scheduler(jobs, lanes, "", recorded=False)
    faults = faults or Faults("fail")
    return _run(scheduler, specs, controllers, experts, crew, workers, progress, faults)


def _run(
    scheduler: Scheduler,
    specs: Mapping[str, EnvSpec],
    controllers: Mapping[str, LaneController],
    experts: Mapping[str, Any] | None,
    kept: Crew | None,
    workers: int,
    progress: Callable[[int, int], None] | None,
    faults: Faults,
) -> Generator[Any, None, None]:
    jobs, lanes = scheduler.jobs, scheduler.lanes
    workers = workers if kept is None else kept.workers
    _check(jobs, specs, controllers, lanes, workers)
    used = {name: specs[name].steps_alone for name in dict.fromkeys(j.environment for j in jobs)}
    taught = dict.fromkeys(j.environment for j in jobs if j.policy == EXPERT)
    found = {name: (experts or {}).get(name) or _registered_expert(name) for name in taught}
    faults.expect(job.environment for job in jobs)
    if kept is not None and kept.executor is not None:
        ends = spread(scheduler, used, found, controllers, kept, progress, faults.say)
    else:
        crew = kept or Crew(min(workers, lanes))
        given = crew, kept is None, progress, faults.say
        ends = outcomes(scheduler, used, found, controllers, *given)
    return _judged(ends, scheduler.recorded, faults)


def _judged(
    found: Generator[Outcome, None, None], recorded: bool, faults: Faults
) -> Generator[Any, None, None]:
    """Episodes or results, where faults let the rollout go on."""
    with closing(found):
        for outcome in found:
            if not isinstance(outcome, EnvironmentFailure):
                yield outcome
                continue
            faults.add(outcome)
            if not recorded:
                yield _failed(outcome)


def _failed(failure: EnvironmentFailure) -> Result:
    nothing = np.zeros(0, np.float32)
    return Result(failure.environment, failure.seed, nothing, None, float("nan"), {}, line(failure))


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
