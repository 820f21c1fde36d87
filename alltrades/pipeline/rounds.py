"""Rounds after stage 2: the generalist visits new starts, and trains on what a verifier or a better
teacher makes of them.

With `teacher: self` its successful episodes join the rows. A start that fails is tried again with
exploration until it succeeds, so that hard starts are covered as well as easy ones: without it the
successes of a policy only teach it what it can do already. With `teacher: best` the states that it
visits are labelled by the best teacher of each environment, at no cost in demonstrations (on-policy
distillation); where no teacher is better, its own successes enter.

A round helps where success on selection starts, which nothing trains on, is higher with it than
with the best before it. The best is kept; so many in a row that do not help (`rounds.patience`) end
the rounds. Where nothing says success, returns stand for it, in deviations of each environment's.
With `simulator.success: never` nothing is judged: all rounds are run, of one try of every start,
whose episodes all join, labelled by the first teacher with `teacher: best`; the last is kept.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from alltrades.data.store import EpisodeStore
from alltrades.envs.rollouts.differences import improvement
from alltrades.envs.rollouts.evaluation import CHOOSES, RETURN, Evaluation
from alltrades.envs.rollouts.evaluation_files import read_evaluation, write_evaluation
from alltrades.envs.rollouts.seeding import selection_seeds
from alltrades.pipeline.acting import load_policies
from alltrades.pipeline.artifacts import policy_digest, said_uses, success_uses, training_of
from alltrades.pipeline.context import Context
from alltrades.pipeline.folder import RunFolder
from alltrades.pipeline.generalist import Sources, Visit, train_generalist
from alltrades.pipeline.measurement import check_starts, success
from alltrades.pipeline.rollouts import rollout_statistics
from alltrades.pipeline.visits import best_teachers, visit
from alltrades.policies.learning.distillation import RECORDED
from alltrades.policies.model.loading import load_policy
from alltrades.settings.distill import DistillSettings
from alltrades.settings.rows import Row
from alltrades.system.files import remove
from alltrades.system.reporting import Report


def run_rounds(folder: RunFolder, sources: Sources, row: Row, settings: DistillSettings) -> None:
    """Rounds of one generalist, from its form after no round to the one that is kept, `row`."""
    context, rounds = sources.demos.context, settings.rounds
    context.unsimulated(f"rounds of {row}", "not visited; their rows stay as they are")
    first = replace(row, round=0)
    best, idle = first, 0  # rounds since the last one that helped
    measured = None if context.blind else _select(context, folder, first, settings)
    report: list[dict[str, Any]] = [{"round": 0, **_figures(measured)}]
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
        found = None if context.blind else _select(context, folder, this, settings)
        facts = {
            "teachers": visits[-1].teachers,
            "tries": EpisodeStore.open(visits[-1].path).provenance["tries"],
        }
        if found is None or measured is None:
            report.append({"round": r, **_figures(None), **facts})
            best = this
            continue
        gain = improvement(found, measured)
        report.append(
            {
                "round": r,
                **_figures(found),
                "gain": gain.mean,
                "interval": list(gain.interval),
                **facts,
            }
        )
        if gain.mean > 0:
            best, measured, idle = this, found, 0
        else:
            idle += 1
        if idle == rounds.patience:
            break
    context.write(
        folder.rounds(row),
        {"rounds": [{**r, "kept": r["round"] == best.round} for r in report]},
    )
    told = measured is not None and measured.result() is not None
    _keep(context, row, folder.policy(best), folder.policy(row), {CHOOSES} if told else set())


def _figures(found: Evaluation | None) -> dict[str, Any]:
    """What is reported of selection starts: mean success, and the mean return of the environments
    that say none.
    """
    if found is None:
        return {"selection": None}
    success, silent = found.result(), [r.environment for r in found.rows if r.metric == RETURN]
    out: dict[str, Any] = {"selection": None if success is None else success[0]}
    return out | ({"return": found.only(silent).mean(metric=RETURN)[0]} if silent else {})


def _keep(context: Context, row: Row, chosen: Path, out: Path, uses: set[str]) -> None:
    """The artifact of the best round as the generalist's, which says that success chose it."""

    def body(_: Report) -> None:
        remove(out)
        said = said_uses({*success_uses(chosen), *uses})
        load_policy(chosen).save(out, training_of(chosen) | said)

    key = {"policy": policy_digest(chosen), "uses": sorted(uses)}
    context.stage(f"keep/{row}", key, [out], body)


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
        "rounds": rounds.model_dump(
            mode="json", include={"episodes", "tries", "explore", "renew", "top"}
        ),
    }
    context.stage(name, key, [path], body, rounds.episodes * len(context.simulated), "episode")
    statistics: dict[str, Any] = {"self": EpisodeStore.open(path).provenance["tries"][0]}
    if rounds.teacher == "best":
        teaching = {
            t.name: rollout_statistics(t.rollouts, settings.rollouts) for t in sources.teachers
        }
        first = sources.teachers[0].name
        statistics = {first: teaching[first]} if context.blind else statistics | teaching
    teachers = best_teachers(statistics)
    index = {t.name: i for i, t in enumerate(sources.teachers)} | {"self": RECORDED}
    of_environment = {name: index[kind] for name, kind in teachers.items()}
    return Visit(path, teachers, of_environment, len(statistics) > 1)


def _select(context: Context, folder: RunFolder, row: Row, settings: DistillSettings) -> Evaluation:
    """Success on selection starts, the same for every round."""
    policy, out, episodes = folder.policy(row), folder.selection(row), settings.rounds.selection

    def body(report: Report) -> None:
        policies = load_policies(policy, context.simulated, context.settings.device)
        seed = context.settings.seed
        seeds = {s.id: selection_seeds(s, seed, episodes) for s in context.simulated}
        result = success(context, str(row), policies, report, success_uses=(), seeds=seeds)
        write_evaluation(out, result)

    key = {
        "policy": policy_digest(policy),
        "episodes": episodes,
        **context.settings.rollout.acting(),
    }
    total = episodes * len(context.simulated)
    context.stage(f"select/{row}", key, [out], body, total, "episode")
    return read_evaluation(out)
