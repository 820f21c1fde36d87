"""The whole run, top to bottom: demonstrations, stage 1, rollouts, weights, stage 2, measurement,
report.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

from alltrades.envs.rollouts.evaluation import Evaluation, common_metrics, paired_difference
from alltrades.envs.rollouts.verdicts import corrected
from alltrades.errors import UserError
from alltrades.pipeline import stages
from alltrades.pipeline.advice import advice_key, advise
from alltrades.pipeline.pipeline import AVERAGES, Pipeline
from alltrades.pipeline.rundir import RunDir
from alltrades.policies.learning.demonstrations import constant_dimensions
from alltrades.settings.rows import Row
from alltrades.settings.run import RunSettings
from alltrades.system.files import remove
from alltrades.system.progress import Progress
from alltrades.system.tracking import Tracker


@dataclass
class RunResult:
    """What a run leaves: the folder, the evaluation of every row, paired comparisons, advice; and
    what was left out, with the reason.
    """

    folder: Path
    evaluations: dict[str, Evaluation]
    comparison: dict[str, Any]
    advice: dict[str, Any]
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
        rundir.write_text("settings.yaml", dump_yaml(settings, origins or {}))
        tracker = Tracker(
            path,
            settings.tracking.wandb,
            settings.model_dump(mode="json"),
            settings.name,
            project=settings.tracking.project,
        )
        try:
            pipeline = Pipeline(settings, rundir, tracker)
            with pipeline.crew:
                result = _stages(pipeline)
        finally:
            tracker.finish()
        if settings.report:
            from alltrades.report import write_report

            try:
                result.report = write_report(path)
            except UserError as error:
                result.left_out["report"] = error
        return result


def _stages(p: Pipeline) -> RunResult:
    """Every stage that the rows of the evaluation need, teachers before those that learn
    from them.
    """
    rows = p.s.evaluation.rows
    distillations = p.s.distillations()
    teachers: list[str] = list(dict.fromkeys(t for d in distillations.values() for t in d.teachers))
    needed = {*map(Row.of_teacher, teachers), *(p.s.rows()[name] for name in rows)}
    specialists = sorted((r for r in needed if r.specialists), key=lambda r: r.teacher)
    joint = [r for r in specialists if r.kind == "joint_init"]
    scratch = [r for r in specialists if r.kind == "scratch"]
    labeled_only = {r for r in needed if r.labeled_only}
    labeled_only |= {replace(r, kind="labeled_only") for r in joint}
    labeled_only |= {
        Row("labeled_only") for d in distillations.values() if d.init == "labeled_only"
    }
    p.collect()
    still = constant_dimensions(p.demos(), [spec.interface for spec in p.specs], p.s.policy)
    if still:
        more = f"; and {len(still) - 2} more" if len(still) > 2 else ""
        print(f"normaliser: {'; '.join(still[:2])}{more}", file=sys.stderr)
    finished = {row: Event() for row in labeled_only}

    def labeled(row: Row) -> None:
        try:
            other = finished.get(replace(row, kind="labeled_only")) if row.held_out else None
            p.train_labeled_only(row, other=other)
        finally:
            finished[row].set()

    p.beside.run(
        [
            *(partial(labeled, row) for row in sorted(labeled_only, key=str)),
            *(partial(p.train_specialists, row) for row in scratch),
        ]
    )
    remove(p.work(AVERAGES))
    for row in joint:
        p.train_specialists(row)
    for kind in teachers:
        p.roll_out(kind, max(d.rollouts for d in distillations.values() if kind in d.teachers))
    used = {"demos": p.demos_path, **{f"rollouts/{k}": p.rollouts_path(k) for k in teachers}}
    if p.s.demos.observations is not None:
        used["observations"] = Path(p.s.demos.observations)
    if "generalist" in rows and p.s.demos.path is None:  # for advice
        p.collect_held_out()
        used["held out"] = p.held_out_path
    p.check_starts(used)
    p.dir.write_json(
        "rollouts.json", {k: stages.rollout_statistics(p.rollouts_path(k)) for k in teachers}
    )
    p.beside.run([partial(p.distill, row, settings) for row, settings in distillations.items()])
    evaluations = {row: p.evaluate(row) for row in rows}
    p.draw(rows[0], rows[-1])
    comparison = _compare(p, evaluations)
    advice = _advise(p, evaluations)
    return RunResult(p.dir.path, evaluations, comparison, advice, left_out=p.left_out)


def _compare(p: Pipeline, evaluations: dict[str, Evaluation]) -> dict[str, Any]:
    """Paired differences of the rows on their common starts."""
    pairs = p.s.evaluation.compare or tuple(
        ("generalist", r) for r in evaluations if r != "generalist" and "generalist" in evaluations
    )
    found = []
    for metric in common_metrics(evaluations.values()):
        every = [paired_difference(evaluations[a], evaluations[b], metric=metric) for a, b in pairs]
        for (a, b), pair in zip(pairs, corrected(every)):
            found.append({"a": a, "b": b, "metric": metric, **pair.to_json()})
    comparison = {"pairs": found}
    p.dir.write_json("comparison.json", comparison)
    return comparison


def _advise(p: Pipeline, evaluations: dict[str, Evaluation]) -> dict[str, Any]:
    """One line per environment: where the error comes from; nothing where no generalist was
    measured.
    """
    out, measured = p.dir.path / "advice.json", "generalist" in evaluations

    def body(progress: Progress) -> None:
        p.dir.write_json("advice.json", advise(p, evaluations, progress.update) if measured else {})

    p.stage(
        "advice",
        advice_key(p, evaluations) if measured else {"rows": "no generalist"},
        [out],
        body,
        len(p.ids),
        "env",
    )
    return json.loads(out.read_text())
