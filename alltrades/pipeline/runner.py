"""The whole run, top to bottom: demonstrations, stage 1, rollouts, weights, stage 2, measurement,
report.

Every stage is recorded in the run folder's manifest under a key made of its settings and of the
digests of its inputs: a stage whose key did not change is not run again, and a killed run goes on
where it was.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

from alltrades.envs.rollouts.evaluation import Evaluation
from alltrades.errors import UserError
from alltrades.pipeline.acting import load_policies
from alltrades.pipeline.comparison import compared
from alltrades.pipeline.context import Context, opened
from alltrades.pipeline.demonstrations import Demonstrations, imported, record, record_held_out
from alltrades.pipeline.diagnosis import advise
from alltrades.pipeline.environment_checks import checked
from alltrades.pipeline.estimated import measure_estimated
from alltrades.pipeline.eyes import open_eyes, opens_eyes, sight_of
from alltrades.pipeline.folder import RunFolder
from alltrades.pipeline.gap import gap
from alltrades.pipeline.generalist import Sources, train_generalist
from alltrades.pipeline.kept import draw_kept
from alltrades.pipeline.labeled_only import Averages, train_labeled_only
from alltrades.pipeline.logs import logs_of
from alltrades.pipeline.looking import look_of_run, say
from alltrades.pipeline.measurement import check_starts, draw, measure
from alltrades.pipeline.open_loop import OpenLoop, judge
from alltrades.pipeline.perturbations import Perturbed, Trials, looks, measure_perturbed
from alltrades.pipeline.rollouts import Teacher, roll_out, rollout_statistics
from alltrades.pipeline.rounds import run_rounds
from alltrades.pipeline.rundir import RunDir
from alltrades.pipeline.specialists import train_specialists
from alltrades.pipeline.weighing import weigh
from alltrades.report import text
from alltrades.settings.distill import DistillSettings
from alltrades.settings.rows import ESTIMATED, GENERALIST, PRIVILEGED, Row
from alltrades.settings.run import RunSettings
from alltrades.system.files import write_text
from alltrades.system.remote.place import place
from alltrades.system.tracking import Tracker


@dataclass
class RunResult:
    """What a run leaves: the folder, the evaluation of every row, paired comparisons, advice; and
    what was left out, with the reason; open-loop errors where episodes are held out; and a row
    under perturbations where one looks.
    """

    folder: Path
    evaluations: dict[str, Evaluation]
    comparison: dict[str, Any]
    advice: dict[str, Any]
    open_loop: OpenLoop = field(default_factory=dict)
    perturbations: Perturbed | None = None
    report: Path | None = None
    left_out: dict[str, UserError] = field(default_factory=dict)


def run(
    settings: RunSettings,
    folder: Path | str | None = None,
    origins: dict[str, str] | None = None,
    relatives: Sequence[Path] = (),
) -> RunResult:
    """Run the whole pipeline in `folder` (default runs/NAME); continues a run that is there with
    the same settings.

    Stages whose settings or inputs changed run again, and replace what they had written; those that
    another run in `relatives` finished with the same inputs are copied from there. Raises UserError
    when the folder holds a run of another seed, or is in use.
    """
    from alltrades.settings.load import dump_yaml

    path = Path(folder) if folder is not None else Path("runs") / settings.name
    with RunDir(path, settings.seed, relatives) as rundir:
        files = RunFolder(path)
        write_text(files.settings, dump_yaml(settings, origins or {}))
        tracker = Tracker(
            path,
            settings.tracking.wandb,
            settings.model_dump(mode="json"),
            settings.name,
            project=settings.tracking.project,
        )
        try:
            with opened(settings, rundir.manifest, tracker.log) as context:
                result = _stages(checked(context, files.checks), files)
        finally:
            tracker.finish()
        if settings.report:
            from alltrades.report import write_report

            try:
                result.report = write_report(path)
            except UserError as error:
                result.left_out["report"] = error
        return result


def _stages(context: Context, folder: RunFolder) -> RunResult:
    """Every stage that the rows of the evaluation need, teachers before those that learn
    from them.
    """
    settings, generalists = context.settings, context.settings.distillations()
    if opens_eyes(settings):
        sight_of(context)  # raises before anything is made
    rows = {name: settings.rows()[name] for name in settings.evaluation.rows}
    looks, taught = opens_eyes(settings), _rows_of_teachers(generalists)
    blind, recipe = _blind(context) if looks else set(), settings.learning()
    before = [row for row in _rows_of_teachers(recipe) if row.kind in blind]
    teachers = dict.fromkeys([*before, *taught])
    _check_rounds(context, rows)
    demos = Demonstrations(context, folder.demos)
    if settings.demos.path is None:
        record(context, demos.store, folder.experts)
    else:
        imported(context, demos.store)
    for d in generalists.values():
        logs_of(d, context.ids, demos.stores, context.stores)
    demos.print_statistics()
    needed = {*teachers, *rows.values()}
    if Row(ESTIMATED) in needed:
        needed.add(Row("scratch"))
    if any(d.init == "labeled_only" for d in generalists.values()):
        needed.add(Row("labeled_only"))

    def wanted(row: Row) -> int:
        asked = recipe if row in before else generalists
        return max(d.rollouts for d in asked.values() if row.teacher in d.teachers)

    seen = {row: max(wanted(row), settings.eyes.rollouts) for row in before}  # by the eyes

    if looks:
        first = {row for row in needed if row.kind in blind}
        _stage_one(demos, folder, first)
        needed -= first
        shown = {teacher(folder, row): count for row, count in seen.items()}
        for each, count in shown.items():  # whatever is measured: the eyes are those of the recipe
            roll_out(context, each, count)
        context = open_eyes(demos, folder, shown)
        demos, settings = replace(demos, context=context), context.settings
    _stage_one(demos, folder, needed)
    for row in teachers:
        if row not in before:
            roll_out(context, teacher(folder, row), wanted(row))
    advised = GENERALIST in rows and bool(context.simulated)
    if advised and settings.demos.path is None:
        record_held_out(context, folder.held_out)
    looked = {"starts": folder.starts} if looks and settings.eyes.starts else {}
    check_starts(context, _stores(context, folder, teachers, advised) | looked)
    fair = {name: settings.distill.rollouts for name in settings.distill.teachers}
    counts = {
        r.teacher: rollout_statistics(folder.rollouts(r), fair.get(r.teacher, wanted(r)))
        for r in teachers
    }
    context.write(folder.rollout_counts, counts)
    names = list(map(Row, generalists))
    context.beside.run([partial(_weighed, demos, folder, row) for row in names])
    draw_kept(demos, [(sources(demos, folder, r), generalists[r.kind]) for r in names])
    context.beside.run([partial(_stage_two, demos, folder, row) for row in names])
    context.unsimulated("evaluate", "judged open loop on held-out episodes")
    evaluations = {
        name: measure_estimated(context, folder)
        if row.kind == ESTIMATED
        else measure(context, name, folder.policy(row), folder.evaluation(name))
        for name, row in rows.items()
        if context.simulated
    }
    written = {name: folder.policy(row) for name, row in rows.items() if row.kind != ESTIMATED}
    judged = judge(demos, written, folder.open_loop)
    disturbed = _looked(demos, folder, written, evaluations)
    drawn = (*written,)[:1] + (*written,)[-1:]
    draw(context, {name: written[name] for name in drawn}, folder.trajectories)
    beside = [(GENERALIST, name) for name in evaluations if name != GENERALIST]
    comparison = compared(evaluations, settings.evaluation.compare or beside)
    if (kept := gap(evaluations, settings.distill.teachers, counts)) is not None:
        comparison["teachers"] = kept
    context.write(folder.comparison, comparison)
    generalist = Row(GENERALIST)
    given = sources(demos, folder, generalist)
    advice = advise(folder, given, settings.distill, evaluations, judged)
    left_out = dict(context.left_out)
    return RunResult(
        folder.path, evaluations, comparison, advice, judged, disturbed, left_out=left_out
    )


def _looked(
    demos: Demonstrations,
    folder: RunFolder,
    written: Mapping[str, Path],
    evaluations: Mapping[str, Evaluation],
) -> Perturbed | None:
    """What the generalist, or else the last row that looks, looks at; and its results under
    perturbations of what it sees.
    """
    context, asked = demos.context, demos.context.settings.evaluation
    names = [GENERALIST] if GENERALIST in written else list(written)[::-1]
    found = (n for n in names if looks(load_policies(written[n], context.specs)))
    name = next(found, None)
    if name is None:
        return None
    path = written[name]
    if asked.looks:
        looked = look_of_run(demos, name, path, folder.looks, folder.films)
        say(looked["environments"])
    if not asked.perturbations or name not in evaluations:
        return None
    trials = Trials(asked.perturbations, asked.perturbed_episodes)
    return measure_perturbed(context, name, path, trials, folder.perturbations, evaluations[name])


def _blind(context: Context) -> set[str]:
    """The kinds of teachers that act on states alone, and so before the eyes are there."""
    settings, observe = context.settings, context.settings.specialist.observe
    fields = [e.seeing(observe).observation.values() for e in context.interfaces]
    if any(f.kind == "image" for own in fields for f in own):
        return set()
    return {"scratch", PRIVILEGED} | ({"joint_init"} if settings.privileged else set())


def _rows_of_teachers(generalists: Mapping[str, DistillSettings]) -> list[Row]:
    """The rows that these generalists learn from, each once."""
    names = [name for d in generalists.values() for name in d.teachers]
    return [Row.of_teacher(name) for name in dict.fromkeys(names)]


def _check_rounds(context: Context, rows: Mapping[str, Row]) -> None:
    """Raises UserError for rows of rounds where nothing can be visited."""
    for name, row in rows.items():
        if row.round is not None and not context.simulated:
            raise UserError(
                f"evaluation.rows names '{name}' and rounds need a simulator, which none of "
                f"{', '.join(context.ids)} has; expected rows without _round; leave it out"
            )


# ---- stage 1 -------------------------------------------------------------------------------------
def _stage_one(demos: Demonstrations, folder: RunFolder, needed: set[Row]) -> None:
    """Labeled-only policies and specialists beside one another; then the specialists that go on
    from a labeled-only policy.
    """
    context = demos.context
    fine_tuned = sorted((r for r in needed if r.kind == "joint_init"), key=str)
    labeled_only = {r for r in needed if r.labeled_only}
    labeled_only |= {context.settings.begins_with(r) for r in fine_tuned}
    finished, averages = {row: Event() for row in labeled_only}, Averages(context)

    def labeled(row: Row) -> None:
        other = finished.get(replace(row, kind="labeled_only")) if row.held_out else None
        try:
            train_labeled_only(demos, row, folder.policy(row), averages=averages, after=other)
        finally:
            finished[row].set()

    def specialists(row: Row, joint: Path | None = None) -> None:
        line = train_specialists(demos, row, folder.policy(row), joint)
        if line is not None:
            print(f"specialists/{row.teacher}: {line}", file=sys.stderr)

    scratch = sorted((r for r in needed if r.kind == "scratch"), key=str)
    context.beside.run(
        [
            *(partial(labeled, row) for row in sorted(labeled_only, key=str)),
            *(partial(specialists, row) for row in scratch),
        ]
    )
    averages.remove()
    for row in fine_tuned:
        specialists(row, folder.policy(context.settings.begins_with(row)))


# ---- stage 2 -------------------------------------------------------------------------------------
def _weighed(demos: Demonstrations, folder: RunFolder, row: Row) -> None:
    """The weights of one generalist."""
    settings, given = demos.context.settings.distillations()[row.kind], sources(demos, folder, row)
    summary = folder.weights_summary(row)
    results = weigh(demos, given.stores, str(row), settings, given.weights, summary)
    for line in text.weight_warnings({name: r.warnings for name, r in results.items()}):
        print(f"weights of {row}: {line}", file=sys.stderr)


def _stage_two(demos: Demonstrations, folder: RunFolder, row: Row) -> None:
    """One generalist: stage 2, rounds."""
    settings, given = demos.context.settings.distillations()[row.kind], sources(demos, folder, row)
    rounds = settings.rounds.count and demos.context.simulated
    first = replace(row, round=0) if rounds else row
    train_generalist(given, settings, str(first), folder.policy(first))
    if rounds:
        run_rounds(folder, given, row, settings)
    elif settings.rounds.count:
        demos.context.unsimulated(f"rounds of {row}", "none are run")


# ---- inputs of stages ----------------------------------------------------------------------------
def teacher(folder: RunFolder, row: Row) -> Teacher:
    """A row of a run as a teacher."""
    policies, rollouts = folder.policy(row), folder.rollouts(row)
    return Teacher(row.teacher, policies, rollouts, folder.pictures(row))


def sources(demos: Demonstrations, folder: RunFolder, row: Row) -> Sources:
    """What a run's generalist `row` learns from."""
    settings = demos.context.settings.distillations().get(row.kind, demos.context.settings.distill)
    return Sources(
        demos,
        tuple(teacher(folder, Row.of_teacher(name)) for name in settings.teachers),
        folder.weights(row),
        folder.policy(Row("labeled_only")) if settings.init == "labeled_only" else None,
    )


def _stores(
    context: Context, folder: RunFolder, teachers: Mapping[Row, None], held_out: bool
) -> dict[str, Path]:
    """Stores whose starts no evaluation may use."""
    demos = context.settings.demos
    stores = {"demos": folder.demos}
    stores |= {f"rollouts/{row.teacher}": folder.rollouts(row) for row in teachers}
    for d in context.settings.distillations().values():
        stores |= {f"logs {path}": place(path) for path in d.logs}
    if held_out and demos.path is None:
        stores["held out"] = folder.held_out
    return stores
