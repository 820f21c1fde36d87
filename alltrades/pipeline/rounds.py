"""Rounds after stage 2: the generalist visits new starts, and trains on what a verifier or a better
teacher makes of them.

With `teacher: self` its successful episodes join the rows. A start that fails is tried again with
exploration until it succeeds, so that hard starts are covered as well as easy ones: without it the
successes of a policy only teach it what it can do already. With `teacher: best` the states that it
visits are labelled by the best teacher of each environment, at no cost in demonstrations (on-policy
distillation); where no teacher is better, its own successes enter.

A round helps where success on selection starts, which nothing trains on, is higher with it than
with the best before it. The best is kept; so many in a row that do not help (`rounds.patience`) end
the rounds.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from alltrades.data.store import EpisodeStore
from alltrades.envs.rollouts.evaluation import Evaluation, paired_difference
from alltrades.envs.rollouts.evaluation_files import read_evaluation, write_evaluation
from alltrades.envs.rollouts.seeding import selection_seeds
from alltrades.pipeline.acting import load_policies
from alltrades.pipeline.artifacts import policy_digest
from alltrades.pipeline.context import Context
from alltrades.pipeline.folder import RunFolder
from alltrades.pipeline.generalist import Sources, Visit, train_generalist
from alltrades.pipeline.measurement import check_starts, success
from alltrades.pipeline.rollouts import rollout_statistics
from alltrades.pipeline.visits import best_teachers, visit
from alltrades.policies.learning.distillation import RECORDED
from alltrades.settings.parts import DistillSettings
from alltrades.settings.rows import Row
from alltrades.system.files import copy, remove
from alltrades.system.reading import write_sealed
from alltrades.system.reporting import Report


def run_rounds(folder: RunFolder, sources: Sources, row: Row, settings: DistillSettings) -> None:
    """Rounds of one generalist, from its form after no round to the one that is kept, `row`."""
    context, rounds = sources.demos.context, settings.rounds
    context.unsimulated(f"rounds of {row}", "not visited; their rows stay as they are")
    first = replace(row, round=0)
    best, measured = first, _select(context, folder, first, settings)
    idle = 0  # rounds since the last one that helped
    report: list[dict[str, Any]] = [{"round": 0, "selection": measured.mean()[0]}]
    visits: tuple[Visit, ...] = ()
    for r in range(1, rounds.count + 1):
        last, this = replace(row, round=r - 1), replace(row, round=r)
        visits += (_visit(folder, sources, this, settings, folder.policy(last)),)
        check_starts(context, {f"round {r}": visits[-1].path})
        initial = folder.policy(last) if rounds.init == "previous" else sources.initial
        train_generalist(
            replace(sources, initial=initial),
            settings,
            str(this),
            folder.policy(this),
            visits=visits,
        )
        found = _select(context, folder, this, settings)
        gain = paired_difference(found, measured)
        report.append(
            {
                "round": r,
                "selection": found.mean()[0],
                "gain": gain.mean,
                "interval": list(gain.interval),
                "teachers": visits[-1].teachers,
                "tries": EpisodeStore.open(visits[-1].path).provenance["tries"],
            }
        )
        if gain.mean > 0:
            best, measured, idle = this, found, 0
        else:
            idle += 1
        if idle == rounds.patience:
            break
    write_sealed(
        folder.rounds(row),
        {"rounds": [{**r, "kept": r["round"] == best.round} for r in report]},
    )
    _keep(context, row, folder.policy(best), folder.policy(row))


def _keep(context: Context, row: Row, chosen: Path, out: Path) -> None:
    """The artifact of the best round as the generalist's."""

    def body(_: Report) -> None:
        remove(out)
        copy(chosen, out)

    context.stage(f"keep/{row}", {"policy": policy_digest(chosen)}, [out], body)


def _visit(
    folder: RunFolder, sources: Sources, row: Row, settings: DistillSettings, policy: Path
) -> Visit:
    """The generalist's episodes that lead to its form `row`, and who labels them."""
    context, rounds = sources.demos.context, settings.rounds
    name, path = f"visit/{row.kind}/{row.round}", folder.visits(row)

    def body(report: Report) -> None:
        found = load_policies(policy, context.specs, context.settings.device)[context.ids[0]]
        source = f"{row.kind} round {row.round}"
        visit(context, found, rounds, context.seed(name), source, path, report)

    key = {
        "policy": policy_digest(policy),
        **context.settings.rollout.acting(),
        "rounds": rounds.model_dump(mode="json", include={"episodes", "tries", "explore", "renew"}),
    }
    context.stage(name, key, [path], body, rounds.episodes * len(context.simulated), "episode")
    statistics: dict[str, Any] = {"self": EpisodeStore.open(path).provenance["tries"][0]}
    if rounds.teacher == "best":
        statistics |= {t.name: rollout_statistics(t.rollouts) for t in sources.teachers}
    teachers = best_teachers(statistics)
    index = {t.name: i for i, t in enumerate(sources.teachers)} | {"self": RECORDED}
    return Visit(path, teachers, {name: index[kind] for name, kind in teachers.items()})


def _select(context: Context, folder: RunFolder, row: Row, settings: DistillSettings) -> Evaluation:
    """Success on selection starts, the same for every round."""
    policy, out, episodes = folder.policy(row), folder.selection(row), settings.rounds.selection

    def body(report: Report) -> None:
        policies = load_policies(policy, context.simulated, context.settings.device)
        seed = context.settings.seed
        seeds = {s.id: selection_seeds(s, seed, episodes) for s in context.simulated}
        result = success(context, str(row), policies, report, used_success_signal=True, seeds=seeds)
        write_evaluation(out, result)

    key = {
        "policy": policy_digest(policy),
        "episodes": episodes,
        **context.settings.rollout.acting(),
    }
    total = episodes * len(context.simulated)
    context.stage(f"select/{row}", key, [out], body, total, "episode")
    return read_evaluation(out)
