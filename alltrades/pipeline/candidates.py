"""Specialists of a new environment that roll out for a generalist: trained from scratch and
fine-tuned from it, chosen by rollouts, and better with practice.

A round visits new starts with the best candidate so far, tries failed ones again with exploration,
and trains all candidates anew on the demonstrations and on what succeeded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from alltrades.data.episode import Episode
from alltrades.envs.rollouts.evaluation import Evaluation
from alltrades.envs.rollouts.evaluation_files import read_evaluation, write_evaluation
from alltrades.envs.rollouts.seeding import selection_seeds
from alltrades.pipeline import collection
from alltrades.pipeline.acting import load_policies
from alltrades.pipeline.adapt_folder import KINDS, AdaptFolder
from alltrades.pipeline.artifacts import policy_digests
from alltrades.pipeline.context import Context
from alltrades.pipeline.demonstrations import Demonstrations
from alltrades.pipeline.holdout import held_out_places
from alltrades.pipeline.measurement import check_starts, success
from alltrades.pipeline.open_loop import judge
from alltrades.pipeline.specialists import train_specialists
from alltrades.pipeline.visits import taught, visit
from alltrades.settings.rows import Row
from alltrades.system.reporting import Report


@dataclass(frozen=True)
class Found:
    """What candidates came to.

    Attributes:
        chosen: of each environment, the candidate that was best; none where nothing could tell.
        table: of each environment and candidate, how it did and whether it was chosen.
        practice: store of the demonstrations that are learned from, and of all successes.
        demos: number of episodes in it that are demonstrations, which come first.
    """

    chosen: dict[str, Row]
    table: list[dict[str, Any]]
    practice: Path
    demos: int


def tried(demos: Demonstrations, folder: AdaptFolder) -> Found:
    """Train, choose and roll out candidates."""
    context, settings = demos.context, demos.context.settings.adapt
    practised = () if context.blind else context.simulated
    rounds = settings.rounds.count if practised else 0
    measured: dict[Row, dict[str, dict[str, Any]]] = {}
    chosen: dict[str, Row] = {}
    for number in range(rounds + 1):
        store = folder.practice(number)
        visited = [folder.visits(s.id, k) for k in range(1, number + 1) for s in practised]
        new = _practice(demos, visited, store)
        if number == 0 or (number < rounds and new):
            rows = [
                Row(kind, number + 1) for kind, name in KINDS.items() if name in settings.candidates
            ]
            learning = _all_of(context, store)
            for row in rows:
                joint = folder.grown if row.kind == "joint_init" else None
                line = train_specialists(learning, row, folder.candidate(row), joint)
                if line is not None:
                    context.say(f"candidates {row.teacher}: {line}")
            measured |= _judged(demos, rows, folder)
            chosen = _best(measured)
        if number < rounds:
            for spec in practised:
                _visit(context, folder, chosen[spec.id], spec.id, number + 1)
    table = [
        {
            "environment": name,
            "candidate": KINDS[row.kind],
            "round": row.number - 1,
            **facts,
            "chosen": chosen[name] == row,
        }
        for row, of in measured.items()
        for name, facts in of.items()
    ]
    count = sum(len(mine) for mine in _learned_from(demos).values())
    return Found(chosen, table, folder.practice(rounds), count)


def _all_of(context: Context, store: Path) -> Demonstrations:
    """All episodes of a store of practice."""
    settings = context.settings
    whole = settings.demos.model_copy(
        update={
            "path": str(store),
            "episodes": None,
            "episodes_of": {},
            "holdout": 0.0,
            "observations": None,
        }
    )
    learning = replace(context, settings=settings.model_copy(update={"demos": whole}))
    return Demonstrations(learning, store)


# ---- practice ------------------------------------------------------------------------------------
def _learned_from(demos: Demonstrations) -> dict[str, np.ndarray]:
    """Of every environment, the episodes in the store of demonstrations that are learned from."""
    context, columns = demos.context, demos.context.stores.open(demos.store).columns()
    seed, out = context.settings.evaluation.seed, {}
    for name, share in context.holdout.items():
        own = np.flatnonzero((columns["environment"] == name) & columns["has_actions"])
        kept = np.delete(own, held_out_places(len(own), share, seed, name))
        out[name] = kept[: context.settings.demos.wanted(name)]
    return out


def _practice(demos: Demonstrations, visited: Sequence[Path], out: Path) -> int:
    """The demonstrations that are learned from, and behind them the successes of visits, whose
    number is returned.
    """
    context = demos.context
    mine = np.sort(np.concatenate(list(_learned_from(demos).values())))

    def episodes() -> list[Episode]:
        store = context.stores.open(demos.store)
        return [store.episode(int(i)) for i in mine] + [
            store.episode(int(i))
            for store in context.stores.all(visited)
            for i in np.flatnonzero(taught(store, context.ids, context.blind).episode_success)
        ]

    def body(_: Report) -> None:
        with collection.open_or_create(out, context.specs, {"kind": "demonstrations"}) as store:
            store.append(episodes()[len(store) :])

    key = {
        "demos": context.stores.open(demos.store).digest(),
        "mine": mine.tolist(),
        "visits": [store.digest() for store in context.stores.all(visited)],
    }
    context.stage(out.stem, key, [out], body)
    return len(context.stores.open(out)) - len(mine)


def _visit(context: Context, folder: AdaptFolder, row: Row, name: str, number: int) -> None:
    """Episodes of a candidate on new starts of its environment."""
    rounds, out = context.settings.adapt.rounds, folder.visits(name, number)
    stage = f"visit/{name}/{number}"
    own = replace(context, specs=tuple(s for s in context.specs if s.id == name))

    def body(report: Report) -> None:
        policy = load_policies(folder.candidate(row), own.specs, context.settings.device)[name]
        visit(own, policy, rounds, context.seed(stage), row.teacher, out, report)

    key = {
        "policy": policy_digests(folder.candidate(row)),
        **context.settings.rollout.acting(),
        "rounds": rounds.model_dump(mode="json", exclude={"count", "selection"}),
    }
    own.stage(stage, key, [out], body, rounds.episodes, "episode")
    check_starts(own, {f"visits {number}": out}, rounds.selection)


# ---- choice --------------------------------------------------------------------------------------
def _judged(
    demos: Demonstrations, rows: Sequence[Row], folder: AdaptFolder
) -> dict[Row, dict[str, dict[str, Any]]]:
    """How candidates do, by environment: in rollouts, or open loop on held-out episodes."""
    context = demos.context
    out: dict[Row, dict[str, dict[str, Any]]] = {row: {} for row in rows}
    if not context.blind:
        for row in rows if context.simulated else ():
            for r in _selected(context, row, folder).rows:
                mean, (low, high) = r.estimate(r.metric)
                out[row][r.environment] = {
                    "metric": r.metric,
                    "mean": mean,
                    "interval": [low, high],
                    "worth": low,
                }
    silent = [name for name in context.ids if name not in out[rows[0]]]
    if not silent:
        return out
    paths = {row.teacher: folder.candidate(row) for row in rows}
    found = judge(demos, paths, folder.selection_open_loop, stage="select/open_loop")
    for name in silent:
        if name not in found:
            context.say(
                f"candidates of {name}: neither a simulator nor held-out episodes to choose by; "
                "the recorded actions are learned"
            )
            continue
        for row in rows:
            facts = found[name]["rows"][row.teacher]
            out[row][name] = {
                "metric": "open loop",
                "mean": facts["share"],
                "interval": facts["interval"],
                "worth": -facts["share"],
            }
    return out


def _selected(context: Context, row: Row, folder: AdaptFolder) -> Evaluation:
    """Success on selection starts, the same for all candidates."""
    settings, policies, out = context.settings, folder.candidate(row), folder.selection(row)
    episodes = settings.adapt.rounds.selection

    def body(report: Report) -> None:
        seeds = {s.id: selection_seeds(s, settings.seed, episodes) for s in context.simulated}
        acting = load_policies(policies, context.simulated, settings.device)
        write_evaluation(
            out, success(context, row.teacher, acting, report, success_uses=(), seeds=seeds)
        )

    key = {
        "policy": policy_digests(policies),
        "episodes": episodes,
        **settings.rollout.acting(),
    }
    total = episodes * len(context.simulated)
    context.stage(f"select/{row.teacher}", key, [out], body, total, "episode")
    return read_evaluation(out)


def _best(measured: dict[Row, dict[str, dict[str, Any]]]) -> dict[str, Row]:
    """Of every environment, the candidate whose interval's lower end is highest (open loop the
    smallest error); the first of equals.
    """
    names = dict.fromkeys(name for of in measured.values() for name in of)
    return {
        name: max(
            (row for row, of in measured.items() if name in of),
            key=lambda row: measured[row][name]["worth"],
        )
        for name in names
    }
