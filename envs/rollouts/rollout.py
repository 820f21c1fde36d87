"""The only loop that steps environments: continuous batching over lanes and worker processes.

Every started episode is finished and counted. An episode is a function of (policy, environment,
seed) alone: the policy is called with one fixed, padded batch size and one thread, and noise comes
from the episode's own generator. So results are bit-equal for any number of workers, after a
worker's death, and after a resume.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from alltrades.data.episode import Episode
from alltrades.data.fields import Observation
from alltrades.envs.adapter import EnvironmentFailure
from alltrades.envs.rollouts.crew import Crew
from alltrades.envs.rollouts.faults import Faults, line
from alltrades.envs.rollouts.hosts import EXPERT, Chunk, Command, Outcome, Result
from alltrades.envs.rollouts.scheduler import Job, LaneController, Scheduler
from alltrades.envs.rollouts.workers import WorkerDied
from alltrades.envs.spec import EnvSpec
from alltrades.errors import UserError, nearest

HELD = 1 << 30  # bytes of finished episodes that wait for one before them; above, none is started


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
    images: bool = True,
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
        images: whether episodes have the pictures of cameras, drawn at every step. Without, they
            are drawn where a policy looks alone, and may be later, for those that are kept: see
            `replay`.

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
    crew = kept or Crew(min(workers, lanes))
    faults.expect(job.environment for job in jobs)
    return _episodes(scheduler, used, found, controllers, crew, kept is None, progress, faults)


def _episodes(
    scheduler: Scheduler,
    specs: Mapping[str, EnvSpec],
    experts: Mapping[str, Any],
    controllers: Mapping[str, LaneController],
    crew: Crew,
    ends: bool,
    progress: Callable[[int, int], None] | None,
    faults: Faults,
) -> Generator[Any, None, None]:
    """Episodes or results, in the order of the jobs; with `ends` the crew is closed behind them."""
    jobs = scheduler.jobs
    if not jobs:
        return
    with crew.lock:
        scheduler.deal(max(1, crew.workers))
        finished: dict[int, Outcome] = {}
        handed, done, held = 0, 0, 0

        def filled(host: int) -> list[Command]:
            if scheduler.waits and crew.grown(host):
                if scheduler.runs(host):
                    return []
                crew.renew(host)
            return scheduler.fill(host, controllers, handed, full=held > HELD)

        def ended(index: int, outcome: Outcome) -> None:
            nonlocal held, done
            finished[index] = outcome
            held += _size(outcome)
            done += 1
            if progress is not None:
                progress(done, len(jobs))

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
                        for index, failure in scheduler.lost(host, death, faults.say).items():
                            ended(index, failure)
                        crew.restart(host, death)
                        continue  # it is idle now, and filled below
                    if replies is None:
                        continue
                    commands[host] = []
                    for lane, value in replies:
                        if isinstance(value, Outcome):
                            ended(scheduler.finish(lane), value)
                        else:
                            asking.setdefault(scheduler.job(lane).policy, {})[lane] = value
                for key, frames in asking.items():
                    for lane, actions in _plan(key, controllers[key], frames).items():
                        commands[scheduler.host(lane)].append(Chunk(lane, actions))
                for host in commands:
                    crew.send(host, commands[host] + filled(host))
                while handed in finished:
                    outcome = finished.pop(handed)
                    held -= _size(outcome)
                    handed += 1
                    if not isinstance(outcome, EnvironmentFailure):
                        yield outcome
                        continue
                    faults.add(outcome)
                    if not scheduler.recorded:
                        yield _failed(outcome)
                # jobs held back by the look-ahead bound, or given up by a dead worker
                for host in crew.idle():
                    crew.send(host, filled(host))
        finally:
            if ends or handed < len(jobs):  # episodes that nobody waits for are still running
                crew.close()


def _size(outcome: Outcome) -> int:
    return 0 if isinstance(outcome, EnvironmentFailure) else outcome.nbytes


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
