"""The stage of advice: the sources of error of the generalist, measured in every environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from alltrades.data.steps import Steps
from alltrades.data.weights.estimate import estimate_weights
from alltrades.data.weights.settings import WeightSettings
from alltrades.envs.rollouts.evaluation import SUCCESS, EnvironmentResult, Evaluation, agreed
from alltrades.pipeline.acting import Policies, load_policies
from alltrades.pipeline.advice import (
    Diagnosis,
    Lesson,
    Measured,
    Rate,
    Returns,
    advice_line,
    best_teacher,
)
from alltrades.pipeline.artifacts import policy_digests, training_of
from alltrades.pipeline.demonstrations import held_out
from alltrades.pipeline.folder import RunFolder
from alltrades.pipeline.generalist import Sources, rows_of
from alltrades.pipeline.open_loop import OpenLoop
from alltrades.pipeline.open_loop import advice_line as open_loop_line
from alltrades.pipeline.rollouts import first_rollouts
from alltrades.pipeline.weights_folder import load_weights
from alltrades.policies.learning.diagnosis import (
    blind_error,
    demonstration_error,
    distillation_gap,
    neighbour_error,
)
from alltrades.settings.distill import DistillSettings
from alltrades.settings.rows import GENERALIST, Row
from alltrades.system.files import slug, write_json
from alltrades.system.reading import read_mapping
from alltrades.system.reporting import Report
from alltrades.system.streams import stream

FOLDS = 3  # of estimates that are read alone: they take a third of the time of those that weigh


def advise(
    folder: RunFolder,
    sources: Sources,
    settings: DistillSettings,
    evaluations: Mapping[str, Evaluation],
    open_loop: OpenLoop,
) -> dict[str, Any]:
    """Diagnosis of the generalist in every environment, as plain data; nothing where it was not
    measured. Environments without a simulator have what open loop tells.
    """
    context = sources.demos.context
    measured = GENERALIST in evaluations

    def body(report: Report) -> None:
        found = _diagnoses(folder, sources, settings, evaluations, report) if measured else {}
        write_json(folder.advice, found | _recorded(sources, open_loop))

    key: dict[str, Any] = {"rows": "no generalist"}
    if measured:
        key = _key(folder, sources, settings, evaluations)
    if context.recorded:
        key["open loop"] = open_loop
    context.stage("advice", key, [folder.advice], body, len(context.ids), "env")
    return read_mapping(folder.advice, "the advice that a run wrote", "delete it")


def _recorded(sources: Sources, open_loop: OpenLoop) -> dict[str, Any]:
    """Of environments that only recordings know."""
    out: dict[str, Any] = {}
    if not sources.demos.context.recorded:
        return out
    teachers = sources.policies()
    demos, unseen, kind = sources.demos.steps(), sources.demos.held_out(), sources.teachers[0].name
    for name in sources.demos.context.recorded:
        rows = open_loop.get(name, {"rows": {}})["rows"]
        taught = [row for t in sources.teachers if (row := str(Row.of_teacher(t.name))) in rows]
        if GENERALIST in rows:
            own = demos.choose(demos.numbers(name))
            lesson = _lesson(sources, teachers, kind, name, own, unseen)
            line = open_loop_line(
                open_loop[name], GENERALIST, taught[0] if taught else None, lesson
            )
            out[name] = asdict(
                Diagnosis(
                    line,
                    kind,
                    held_out_error=lesson.held_out,
                    demonstration_error=lesson.training,
                    blind_error=lesson.blind,
                    neighbour_error=lesson.neighbours,
                    steps=lesson.steps,
                    losses=lesson.losses,
                    passes=lesson.passes,
                )
            )
    return out


def _key(
    folder: RunFolder,
    sources: Sources,
    settings: DistillSettings,
    evaluations: Mapping[str, Evaluation],
) -> dict[str, Any]:
    """What advice depends on: stores, policies, settings of stage 2, and the evaluations of
    generalist and teachers.
    """
    context = sources.demos.context
    seen = folder.held_out if context.settings.demos.path is None else sources.demos.store
    rows = {GENERALIST, *(str(Row.of_teacher(t.name)) for t in sources.teachers)}
    return sources.demos.key() | {
        "distill": settings.model_dump(mode="json", exclude={"rounds", "train"}),
        "rollouts": {t.name: context.stores.open(t.rollouts).digest() for t in sources.teachers},
        "held out": context.stores.open(seen).digest(),
        "generalist": policy_digests(folder.policy(Row(GENERALIST))),
        "teachers": {t.name: policy_digests(t.policies) for t in sources.teachers},
        "evaluations": {name: e.to_json() for name, e in evaluations.items() if name in rows},
    }


def _diagnoses(
    folder: RunFolder,
    sources: Sources,
    settings: DistillSettings,
    evaluations: Mapping[str, Evaluation],
    report: Report,
) -> dict[str, Any]:
    evaluations = agreed(evaluations)
    context, seed = sources.demos.context, sources.demos.context.settings.seed
    simulated = [spec.id for spec in context.simulated]
    demos, unseen = sources.demos.steps(), held_out(sources.demos, folder.held_out)
    rollouts = first_rollouts(context, sources.stores, settings.rollouts)
    weights, teachers = load_weights(sources.weights, context.ids), sources.policies()
    policy = load_policies(folder.policy(Row(GENERALIST)), context.specs, context.settings.device)[
        context.ids[0]
    ]
    rows = rows_of(sources, settings, demos, teachers)
    acted = {
        t.name: first_rollouts(context, [t.rollouts], settings.rollouts) for t in sources.teachers
    }
    out: dict[str, Any] = {}
    for name in simulated:
        result = next(r for r in evaluations[GENERALIST].rows if r.environment == name)
        rates = _measured(name, acted, evaluations, result.metric == SUCCESS)
        best, rng = best_teacher(rates), stream(seed, "advice", name)
        gap = distillation_gap(policy, teachers, rows, name, rng)
        own = demos.choose(demos.numbers(name))
        teacher, lesson = None, Lesson()
        if best is not None:
            teacher = rates[best]
            lesson = _lesson(sources, teachers, best, name, own, unseen)
        labelled = int(((demos.environment == name) & demos.has_actions).sum())
        shift = weights[name]
        if shift.auc is None or settings.weights.filtered:  # not estimated, or of successes only
            visits = rollouts.select(
                (rollouts.environment == name) & (rollouts.source == str(best))
            )
            ratio = WeightSettings(kind="ratio", folds=FOLDS)
            shift = estimate_weights(own, visits, ratio, stream(seed, "advice", name, "shift"))
        line = advice_line(
            _of(result),
            teacher,
            gap,
            lesson,
            None if shift.auc_interval is None else shift.auc_interval[0],
            shift.raw_ess,
            labelled,
        )
        out[name] = asdict(
            Diagnosis(
                line,
                best,
                1 - teacher.mean if isinstance(teacher, Rate) else None,
                lesson.held_out,
                _held_out_loss(folder.policy(Row("scratch")) / slug(name)),
                lesson.training,
                lesson.blind,
                lesson.neighbours,
                lesson.steps,
                lesson.losses,
                lesson.passes,
                gap,
                shift.auc,
                shift.raw_ess,
            )
        )
        report.progress(len(out), len(simulated))
    return out


def _lesson(
    sources: Sources,
    teachers: Mapping[str, Policies],
    kind: str,
    name: str,
    own: Steps,
    unseen: Steps,
) -> Lesson:
    """What a teacher has learned in one environment.

    Args:
        own: the demonstrations that it learned from. unseen: others.
    """
    acting, seed = teachers[kind][name], sources.demos.context.settings.seed
    artifact = next(t.policies for t in sources.teachers if t.name == kind)
    training = training_of(artifact) or training_of(artifact / slug(name))

    def rng(what: str) -> np.random.Generator:
        return stream(seed, "advice", name, what)

    return Lesson(
        demonstration_error(acting, own, name, rng("training")),
        demonstration_error(acting, unseen, name, rng("held out")),
        blind_error(acting, own, name, rng("blind")),
        neighbour_error(acting, own, name, rng("neighbours")),
        training.get("steps"),
        tuple(training.get("losses", ())),
        _passes(sources, kind, training.get("steps"), len(own.ends) and int(own.ends[-1])),
    )


def _passes(sources: Sources, kind: str, steps: int | None, rows: int) -> float | None:
    """Times that a teacher saw each of its `rows` in an environment."""
    settings, row = sources.demos.context.settings, Row.of_teacher(kind)
    if steps is None or not rows:
        return None
    if row.labeled_only:
        return steps * settings.labeled_only.batch / len(sources.demos.context.ids) / rows
    return steps * settings.specialist.train.batch / rows


def _held_out_loss(artifact: Path) -> float | None:
    """What selection measured of a specialist."""
    return training_of(artifact).get("held_out_loss")


def _of(result: EnvironmentResult) -> Measured:
    """A row in one environment."""
    if result.successes is None:
        return Returns(np.array(result.returns))
    return Rate(result.successes, result.n)


def _measured(
    name: str, acted: Mapping[str, Steps], evaluations: Mapping[str, Evaluation], told: bool
) -> dict[str, Measured]:
    """Success of every teacher in one environment, over its rollouts and, where it was a row, its
    evaluation; returns where nothing says success (`told`). Rollouts that were not to be seen
    succeeding count by their evaluation alone.
    """
    out: dict[str, Measured] = {}
    for kind, steps in acted.items():
        mine = steps.choose(steps.numbers(name))
        row = evaluations.get(str(Row.of_teacher(kind)))
        rows = [r for r in row.rows if r.environment == name] if row is not None else []
        if not told:
            returns = np.concatenate([mine.return_, *(r.returns for r in rows)])
            if len(returns):
                out[kind] = Returns(returns)
            continue
        counted = mine.tells_success
        n = counted * len(mine.ends) + sum(r.n for r in rows)
        hits = int(mine.episode_success.sum()) if counted else 0
        if n:
            out[kind] = Rate(hits + sum(r.successes or 0 for r in rows), n)
    return out
