"""`alltrades bench cluster`: rollouts by Ray on this machine beside those of processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from statistics import median
from typing import Any

from alltrades.bench.throughput import fresh_policy
from alltrades.data.episode import Episode
from alltrades.envs.rollouts.crew import Crew
from alltrades.envs.rollouts.rollout import Job, rollout
from alltrades.errors import UserError
from alltrades.pipeline.executors import executor_of
from alltrades.policies.control.controller import Controller
from alltrades.settings.compute import ComputeSettings
from alltrades.settings.rollouts import RolloutSettings


def overhead(
    names: Sequence[str], workers: int, repeat: int, each: int, results: list[dict[str, Any]]
) -> Iterator[str]:
    """Yield lines for the same rollouts of a fresh default generalist by so many processes of this
    machine and by as many workers of a Ray cluster, in turn, and one for the ratio of their times.
    Append the same as plain values. Both have begun, and built their environments, before that.

    Args:
        repeat: measurements of both, of which the median counts.
        each: episodes per environment.

    Raises UserError without workers or measurements, and MissingExtra without Ray.
    """
    if workers < 1 or repeat < 1 or each < 1:
        raise UserError(
            f"--count {workers}, --repeat {repeat}, --episodes {each}; expected at least 1 worker, "
            "1 measurement and 1 episode"
        )
    settings = RolloutSettings()
    specs, policy = fresh_policy(names)
    jobs = [Job(s.id, 1000 + i, "policy") for i in range(each) for s in specs]

    def episodes(crew: Crew) -> list[Episode]:
        controllers = {"policy": Controller(policy, settings.lanes)}
        by_id = {s.id: s for s in specs}
        return list(rollout(jobs, by_id, controllers, lanes=settings.lanes, crew=crew))

    cluster = executor_of(ComputeSettings(on="ray", tasks=workers))
    with (
        cluster,
        Crew(workers, settings.timeout) as here,
        Crew(workers, settings.timeout, executor=cluster) as there,
    ):
        crews = {"processes": here, "ray": there}
        actions = {name: b"".join(_bits(episodes(crew))) for name, crew in crews.items()}
        same = len(set(actions.values())) == 1
        spent: dict[str, list[float]] = {name: [] for name in crews}
        for _ in range(repeat):
            for name, crew in crews.items():
                spent[name].append(_seconds(partial(episodes, crew)))
                yield f"{name}, {workers} workers: {len(jobs)} episodes in {spent[name][-1]:.2f} s"
    ratio = median(spent["ray"]) / median(spent["processes"])
    results.append({"episodes": len(jobs), "seconds": spent, "ratio": ratio, "ok": same})
    yield (
        f"by Ray they take {ratio:.2f} times as long as by processes, with "
        f"{'equal' if same else 'other'} episodes"
    )


def _bits(episodes: Sequence[Episode]) -> Iterator[bytes]:
    for episode in episodes:
        assert episode.actions is not None  # they were recorded
        yield episode.actions.tobytes() + episode.rewards.tobytes()


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
