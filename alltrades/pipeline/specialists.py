"""The stage of specialists: one policy per environment, all of a teacher in one stage."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Literal

from alltrades.pipeline.artifacts import artifact_files, policy_digest, said_uses
from alltrades.pipeline.context import Context
from alltrades.pipeline.demonstrations import Demonstrations
from alltrades.policies.learning.demonstrations import DemonstrationFit, Fit
from alltrades.policies.learning.health import settings_called
from alltrades.policies.learning.specialists import Specialists, Task
from alltrades.policies.learning.stacked_training import Candidate
from alltrades.policies.model.encoders.weights import determining
from alltrades.policies.model.loading import load_policy
from alltrades.report import text
from alltrades.settings.rows import Row
from alltrades.system.files import slug, write_json
from alltrades.system.reporting import Report

SELECTION = "selection.json"  # what cross-validation measured


def train_specialists(
    demos: Demonstrations, row: Row, out: Path, joint: Path | None = None
) -> str | None:
    """Specialists of all environments: "scratch" on their own demonstrations, "joint_init"
    fine-tuned from the labeled-only policy `joint`. Those of equal shape are trained together.

    The action scale is that of all demonstrations, so that every policy of a run predicts in the
    same units.

    Args:
        out: folder of one artifact per environment, and of selection.json where cross-validation
            chose.

    Returns what cross-validation chose, in one line; None where it did not run now.
    """
    context = demos.context
    specialist, name = context.settings.specialist, f"specialists/{row.teacher}"
    key = demos.key() | {
        "specialist": specialist.model_dump(mode="json"),
        "train": context.settings.training.of(specialist.train).determining(),
        "initial": policy_digest(joint) if joint else None,
    }
    if joint is None:  # their own architecture: the generalist's may change
        candidates = context.settings.specialist_candidates()
        key |= {"policy": [determining(policy) for _, policy, _ in candidates]}
    lines: list[str] = []

    def train(report: Report) -> None:
        if joint is not None:
            with settings_called("specialist.finetune"):
                fits, table = _fine_tuned(demos, row, joint, report), None
        else:
            with settings_called("specialist.train"):
                fits, table = _from_scratch(demos, row, report)
            if specialist.selection == "cv":
                lines.append(_chosen(context, table))
                write_json(out / SELECTION, table or {})
        for spec, fit in zip(context.specs, fits):
            facts = _facts(context, row, spec.id, fit, table) | demos.held_out_facts()
            fit.policy.save(out / slug(spec.id), facts)

    outputs = [file for i in context.ids for file in artifact_files(out / slug(i))]
    if joint is None and specialist.selection == "cv":
        outputs.append(out / SELECTION)
    context.stage(name, key, outputs, train, unit="step")
    return lines[0] if lines else None


def _seed(context: Context, row: Row, environment: str) -> int:
    return context.seed(f"specialist/{row.teacher}/{environment}")


def _metrics(row: Row, environment: str) -> str:
    return f"specialist/{row.teacher}/{slug(environment)}"


def _fine_tuned(demos: Demonstrations, row: Row, joint: Path, report: Report) -> list[Fit]:
    """The labeled-only policy, trained on in every environment alone."""
    context, steps, policy = (
        demos.context,
        demos.steps(),
        load_policy(joint, demos.context.settings.device),
    )
    settings = context.settings.specialist
    place = context.place(f"specialists/{row.teacher}")
    selection: Literal["last", "holdout"] = "holdout" if settings.selection == "holdout" else "last"
    total = settings.finetune.steps * (2 if selection == "holdout" else 1)
    fits: dict[str, Fit] = {}

    def fit(environment: str, part: Report) -> None:
        fits[environment] = DemonstrationFit(
            policy,
            context.settings.training.of(settings.finetune),
            _seed(context, row, environment),
            context.augmentation,
            place=place.within(slug(environment)),
            report=part,
        ).fit(steps.choose(steps.numbers(environment)), selection)

    parts = [
        part.named(_metrics(row, i))
        for i, part in zip(context.ids, report.parts([total] * len(context.ids)))
    ]
    context.beside.run([partial(fit, i, part) for i, part in zip(context.ids, parts)])
    return [fits[i] for i in context.ids]


def _from_scratch(
    demos: Demonstrations, row: Row, report: Report
) -> tuple[list[Fit], dict[str, Any] | None]:
    """Specialists of their own architecture, and what cross-validation measured where it chose."""
    context, settings = demos.context, demos.context.settings
    fitter = Specialists(
        demos.steps(),
        [Task(i, _seed(context, row, i.id), _metrics(row, i.id)) for i in context.interfaces],
        context.augmentation,
        context.place(f"specialists/{row.teacher}"),
        report,
        context.beside.run,
        settings.device,
    )
    candidates = [Candidate(*c) for c in settings.specialist_candidates()]
    s = settings.specialist
    fits, choice = fitter.fit(
        candidates, s.selection, s.folds, s.selection_environments, s.patience
    )
    return fits, None if choice is None else choice.to_json(candidates)


def _chosen(context: Context, table: dict[str, Any] | None) -> str:
    if table is not None:
        return text.selection(table)
    name, _, train = context.settings.specialist_candidates()[0]
    return (
        f"no environment has two demonstrations to cross-validate with; kept: {name}, all "
        f"{train.steps:,} steps"
    )


def _facts(
    context: Context, row: Row, environment: str, fit: Fit, table: dict[str, Any] | None
) -> dict[str, Any]:
    """What the artifact says of its training."""
    facts: dict[str, Any] = {
        "steps": fit.steps,
        "seed": _seed(context, row, environment),
        "held_out_loss": fit.held_out,
        "losses": list(fit.course),
        **said_uses(()),
    }
    if table is not None:
        facts["selection"] = {
            "chosen": table["chosen"],
            "relative_loss": table["relative_loss"],
            "losses": table["losses"].get(environment),
        }
    return facts
