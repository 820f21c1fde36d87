"""The only loop that steps environments: continuous batching over lanes and worker processes.

Whenever lanes ask for actions, one batched call of their policy serves them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from alltrades.data.fields import Observation
from alltrades.envs.adapter import EnvironmentFailure
from alltrades.envs.rollouts.crew import Crew
from alltrades.envs.rollouts.hosts import Chunk, Command, Outcome
from alltrades.envs.rollouts.scheduler import LaneController, Scheduler
from alltrades.envs.rollouts.workers import WorkerDied
from alltrades.envs.spec import EnvSpec

HELD = 1 << 30  # bytes of finished episodes that wait for one before them; above, none is started


def outcomes(
    scheduler: Scheduler,
    specs: Mapping[str, EnvSpec],
    experts: Mapping[str, Any],
    controllers: Mapping[str, LaneController],
    crew: Crew,
    ends: bool,
    progress: Callable[[int, int], None] | None,
    say: Callable[[str], None],
) -> Generator[Outcome, None, None]:
    """How the episodes of a scheduler end, in the order of its jobs; with `ends` the crew is closed
    behind them. `say` gets a line for every worker that dies.
    """
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
                        for index, failure in scheduler.lost(host, death, say).items():
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
                    yield outcome
                # jobs held back by the look-ahead bound, or given up by a dead worker
                for host in crew.idle():
                    crew.send(host, filled(host))
        finally:
            if ends or handed < len(jobs):  # episodes that nobody waits for are still running
                crew.close()


def _size(outcome: Outcome) -> int:
    return 0 if isinstance(outcome, EnvironmentFailure) else outcome.nbytes


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
