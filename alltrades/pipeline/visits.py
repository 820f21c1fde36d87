"""Visits: a generalist on new starts, which it tries again with exploration until it succeeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from alltrades.data.episode import Episode
from alltrades.data.store import EpisodeStore
from alltrades.envs.rollouts.rollout import Job, rollout
from alltrades.envs.rollouts.seeding import episode_seed
from alltrades.envs.rollouts.statistics import wilson
from alltrades.pipeline import collection
from alltrades.pipeline.acting import acting
from alltrades.pipeline.context import Context
from alltrades.policies.control.controller import Controller
from alltrades.policies.control.exploration import Exploration
from alltrades.policies.model.policy import DiffusionPolicy
from alltrades.settings.parts import RoundSettings
from alltrades.system.reporting import Report

Start = tuple[str, int]  # environment, seed
Counts = dict[str, dict[str, int]]  # {environment: {"n", "successes"}}


def visit(
    context: Context,
    policy: DiffusionPolicy,
    settings: RoundSettings,
    seed: int,
    source: str,
    path: Path,
    report: Report,
) -> None:
    """Roll a generalist out on new starts into a store: every first try, and the successes of later
    ones.

    Interrupted, it repeats the try of all starts that it was at. The store's provenance holds, per
    try, {environment: {"n", "successes"}}.
    """
    starts = [
        (s.id, episode_seed(seed, "round", s.id, i))
        for i in range(settings.episodes)
        for s in context.simulated
    ]
    facts = {"kind": "round", "seed": seed, "policy": policy.digest()}
    with collection.open_or_create(path, context.simulated, facts) as store:
        tries: list[Counts] = list(store.provenance.get("tries", []))
        if tries and len(store) < len(starts) + sum(
            t["successes"] for of_try in tries[1:] for t in of_try.values()
        ):
            tries.pop()  # its episodes were not committed
        for attempt in range(len(tries), settings.tries):
            solved = _solved(store)
            missing = [start for start in starts if start not in solved]
            if not missing:
                break
            how = Exploration(attempt, settings.explore, settings.renew)
            kept, counts = _try(context, policy, how, missing, source, report)
            tries.append(counts)
            store.set_provenance(tries=tries)  # before the episodes: a kill in between repeats both
            store.append(kept)


def _solved(store: EpisodeStore) -> set[Start]:
    columns = store.columns()
    rows = zip(columns["environment"], columns["seed"], columns["success"])
    return {(str(e), int(x)) for e, x, success in rows if success}


def _try(
    context: Context,
    policy: DiffusionPolicy,
    how: Exploration,
    starts: Sequence[Start],
    source: str,
    report: Report,
) -> tuple[list[Episode], Counts]:
    """One episode of every start; those are kept that succeed, and all of the first try."""
    rollouts = context.settings.rollout
    batch = min(rollouts.batch, rollouts.lanes)
    chunks = acting(policy, rollouts, batch)
    controller = Controller(chunks, rollouts.lanes, batch=batch, execution=how)
    counts: Counts = {
        name: {"n": 0, "successes": 0} for name in dict.fromkeys(name for name, _ in starts)
    }
    kept: list[Episode] = []
    for episode in rollout(
        [Job(name, x, "policy") for name, x in starts],
        {s.id: s for s in context.simulated},
        {"policy": controller},
        workers=rollouts.worker_count(),
        lanes=rollouts.lanes,
        source=source,
        crew=context.crew,
    ):
        counts[episode.environment]["n"] += 1
        counts[episode.environment]["successes"] += episode.success
        if episode.success or how.attempt == 0:
            kept.append(episode)
        report.progress(sum(c["n"] for c in counts.values()), len(starts))
    return kept, counts


def best_teachers(statistics: Mapping[str, Mapping[str, Mapping[str, int]]]) -> dict[str, str]:
    """Per environment the policy whose success has the highest lower end of its 95 % interval; the
    first named wins ties.

    `statistics`: {policy: {environment: {"n", "successes"}}}, each on starts that are new to that
    policy: for a teacher those of its rollouts, for the generalist ("self") the first tries of its
    visit. They are draws of one law, though not the same starts, and leave the selection starts to
    the judgement of rounds. Fewer episodes mean a lower end further down.
    """
    names = dict.fromkeys(name for of_policy in statistics.values() for name in of_policy)
    return {
        name: max(
            (kind for kind in statistics if name in statistics[kind]),
            key=lambda kind: wilson(
                statistics[kind][name]["successes"], statistics[kind][name]["n"]
            )[0],
        )
        for name in names
    }
