"""Visits: a generalist on new starts, which it tries again with exploration until it succeeds.

Where nothing says success, a try counts as one whose return is high: at least the lowest of the
share `rounds.top` of the first tries with the highest returns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from alltrades.data.episode import Episode
from alltrades.data.steps import Steps
from alltrades.data.store import EpisodeStore
from alltrades.data.weights.estimate import top_return
from alltrades.envs.rollouts.faults import Faults, to_json
from alltrades.envs.rollouts.rendering import render_episodes
from alltrades.envs.rollouts.rollout import Job, rollout
from alltrades.envs.rollouts.seeding import episode_seed
from alltrades.envs.rollouts.statistics import mean_interval, wilson
from alltrades.pipeline import collection
from alltrades.pipeline.acting import acting
from alltrades.pipeline.context import Context
from alltrades.pipeline.drawing import drawn_later
from alltrades.policies.control.controller import Controller
from alltrades.policies.control.exploration import Exploration
from alltrades.policies.model.policy import DiffusionPolicy
from alltrades.settings.distill import VisitSettings
from alltrades.system.reporting import Report

Start = tuple[str, int]  # environment, seed
# {environment: {"n", "successes", "kept", "return", "return_interval"}}: successes are None where
# nothing says success, `kept` are the successes or what stands for them
Counts = dict[str, dict[str, Any]]
Least = dict[str, float]  # {environment: return that stands for success}, where nothing says it


def visit(
    context: Context,
    policy: DiffusionPolicy,
    settings: VisitSettings,
    seed: int,
    source: str,
    path: Path,
    report: Report,
) -> None:
    """Roll a generalist out on new starts into a store: every first try, and the successes of later
    ones.

    Interrupted, it repeats the try of all starts that it was at. The store's provenance holds, per
    try, what became of the episodes that were finished, the faults, and the returns that stand for
    success.
    """
    starts = [
        (s.id, episode_seed(seed, "round", s.id, i, s.block))
        for i in range(settings.episodes)
        for s in context.simulated
    ]
    facts = {"kind": "round", "seed": seed, "policy": policy.digest()}
    with collection.open_or_create(path, context.simulated, facts) as store:
        tries: list[Counts] = list(store.provenance.get("tries", []))
        faults: list[list[dict[str, Any]]] = list(store.provenance.get("faults", []))  # of each try
        if tries and len(store) < sum(
            t["n" if k == 0 else "kept"] for k, of in enumerate(tries) for t in of.values()
        ):
            tries.pop()  # its episodes were not committed
        for attempt in range(len(tries), settings.tries):
            least: Least = store.provenance["least"] if attempt else {}
            solved = _solved(store, least)
            missing = [start for start in starts if start not in solved]
            if not missing:
                break
            how = Exploration(attempt, settings.explore, settings.renew)
            lost = Faults(context.settings.rollout.errors)
            kept, found = _try(context, policy, how, missing, source, report, least, lost)
            if attempt == 0:
                least = _least(found, settings.top)
            tries.append({name: _counted(each, least.get(name)) for name, each in found.items()})
            faults = [*faults[:attempt], to_json(lost.found)]
            # before the episodes: a kill in between repeats both
            store.set_provenance(tries=tries, least=least, faults=faults)
            store.append(kept)


def taught(store: EpisodeStore, environments: Sequence[str], blind: bool) -> Steps:
    """Episodes of a visit, those marked successful whose actions are worth repeating: their own
    success, a high return where nothing says success, and all where it may not be seen.
    """
    steps, least = store.steps(environments), store.provenance["least"]
    if blind:
        return replace(steps, episode_success=np.ones(len(steps.ends), bool))
    low = np.array([least.get(str(name), np.inf) for name in steps.environment])
    return replace(steps, episode_success=steps.episode_success | (steps.return_ >= low))


def _solved(store: EpisodeStore, least: Least) -> set[Start]:
    columns = store.columns()
    rows = zip(columns["environment"], columns["seed"], columns["success"], columns["return"])
    return {
        (str(e), int(x))
        for e, x, success, returned in rows
        if success or returned >= least.get(str(e), np.inf)
    }


Outcome = tuple[bool | None, float]  # success and return of an episode


def _try(
    context: Context,
    policy: DiffusionPolicy,
    how: Exploration,
    starts: Sequence[Start],
    source: str,
    report: Report,
    least: Least,
    faults: Faults,
) -> tuple[list[Episode], dict[str, list[Outcome]]]:
    """One episode of every start: those that succeed, and all of the first try; what became of all,
    by environment. Most later tries fail: of these, pictures are drawn where the policy plans, and
    of those that are kept the others afterwards.
    """
    rollouts = context.settings.rollout
    batch = min(rollouts.batch, rollouts.lanes)
    chunks = acting(policy, rollouts, batch)
    controller = Controller(chunks, rollouts.lanes, batch=batch, execution=how)
    found: dict[str, list[Outcome]] = {name: [] for name in dict.fromkeys(n for n, _ in starts)}
    kept: list[Episode] = []
    specs = {s.id: s for s in context.practised}
    later = drawn_later(context) if how.attempt else set[str]()
    for episode in rollout(
        [Job(name, x, "policy") for name, x in starts],
        specs,
        {"policy": controller},
        lanes=rollouts.lanes,
        source=source,
        crew=context.crew,
        faults=faults,
        images=specs.keys() - later,
    ):
        outcome = episode.success, episode.return_
        found[episode.environment].append(outcome)
        if how.attempt == 0 or _succeeds(outcome, least.get(episode.environment)):
            kept.append(episode)
        report.progress(sum(map(len, found.values())), len(starts))
    return _drawn(context, kept, later), found


def _drawn(context: Context, episodes: Sequence[Episode], later: Set[str]) -> list[Episode]:
    """Episodes, those of the environments `later`, which were recorded without pictures, with
    them.
    """
    without = [episode for episode in episodes if episode.environment in later]
    if not without:
        return [*episodes]
    specs = {s.id: s for s in context.practised if s.id in later}
    cameras = sorted({name for s in specs.values() if s.rendering for name in s.rendering.images})
    drawn = iter([*render_episodes(specs, without, cameras, place=False, crew=context.crew)])
    return [
        replace(e, observations={**e.observations, **next(drawn)}) if e.environment in later else e
        for e in episodes
    ]


def _succeeds(outcome: Outcome, least: float | None) -> bool:
    success, returned = outcome
    return bool(success) or (least is not None and returned >= least)


def _least(found: Mapping[str, Sequence[Outcome]], top: float) -> Least:
    """Of the environments that say no success in any first try."""
    return {
        name: top_return(np.array([returned for _, returned in each]), top)
        for name, each in found.items()
        if each and all(success is None for success, _ in each)
    }


def _counted(found: Sequence[Outcome], least: float | None) -> dict[str, Any]:
    """What became of an environment's episodes in a try."""
    returns = np.array([returned for _, returned in found])
    interval = mean_interval(returns)
    return {
        "n": len(found),
        "successes": sum(bool(s) for s, _ in found) if least is None else None,
        "kept": sum(_succeeds(outcome, least) for outcome in found),
        "return": float(returns.mean()) if len(found) else None,
        "return_interval": None if interval is None else list(interval),
    }


def best_teachers(statistics: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, str]:
    """Per environment the policy whose success has the highest lower end of its 95 % interval; the
    first named wins ties. Where one of them says no success it is that of the mean return.

    `statistics`: {policy: {environment: {"n", "successes", "return_interval"}}}, each on starts
    that are new to that policy: for a teacher those of its rollouts, for the generalist ("self")
    the first tries of its visit. They are draws of one law, though not the same starts, and leave
    the selection starts to the judgement of rounds. Fewer episodes mean a lower end further down.
    """
    names = dict.fromkeys(name for of_policy in statistics.values() for name in of_policy)
    return {name: _best(name, statistics) for name in names}


def _best(name: str, statistics: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    mine = {kind: found[name] for kind, found in statistics.items() if name in found}
    told = all(facts["successes"] is not None for facts in mine.values())

    def low(kind: str) -> float:
        facts = mine[kind]
        if told:
            return wilson(facts["successes"], facts["n"])[0]
        interval = facts["return_interval"]
        return -np.inf if interval is None else float(interval[0])

    return max(mine, key=low)
