"""Where the error of a generalist comes from, per environment, and one line on what to do about it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alltrades import stages
from alltrades.acting import Policies, load_policies, slug
from alltrades.data.weights import WeightResult
from alltrades.envs.evaluation import Evaluation
from alltrades.policies.distillation import distillation_gap

if TYPE_CHECKING:
    from alltrades.pipeline import Pipeline

SOLVED = 0.95  # success from which an environment needs nothing
TRAILS = 0.05  # a generalist this far below its teachers lost something in stage 2
GAP = 0.05  # distillation gap, as a share of the chunks' variance, that is worth more steps or width


@dataclass(frozen=True)
class Diagnosis:
    """The three sources of error in one environment.

    Attributes:
        specialist_error: share of the best teacher's rollouts that fail.
        held_out_loss: denoising loss of the specialist on held-out demonstrations, where selection measured it.
        distillation_gap: E|g - h|^2 over the variance of the teacher's chunks, on rollout states.
        auc, ess: held-out AUC of demonstrations against rollouts, and effective share of the rollouts.
    """

    line: str
    specialist_error: float | None
    held_out_loss: float | None
    distillation_gap: float | None
    auc: float | None
    ess: float | None


def advice_line(generalist: float, teacher: float | None, gap: float | None, ess: float | None, labelled_demos: int) -> str:
    """One line from the generalist's success, the best teacher's success, the gap and the ESS."""
    if generalist >= SOLVED:
        return f"solved ({generalist:.2f})"
    if teacher is None:
        return f"success {generalist:.2f}; no teacher was rolled out here: roll one out to learn why"
    if generalist < teacher - TRAILS:
        if gap is not None and gap > GAP:
            return (f"generalist {generalist:.2f} trails its teachers' {teacher:.2f} and does not copy them (gap {gap:.2f}): "
                    "more distillation steps or width")
        return f"generalist {generalist:.2f} trails its teachers' {teacher:.2f} although it copies them: more rollouts"
    if ess is not None and ess < 0.3:
        return f"teachers visit other states than the demonstrations (ESS {ess:.2f}): more demonstrations (now {labelled_demos})"
    return f"limited by its teachers ({teacher:.2f}): more demonstrations (now {labelled_demos})"


def advise(pipeline: Pipeline, evaluations: dict[str, Evaluation]) -> dict[str, Any]:
    """Diagnosis of the row "generalist" in every environment, as plain data."""
    s = pipeline.s
    settings = s.distill
    stores: dict[str, Path] = {kind: pipeline.rollouts_path(kind) for kind in settings.teachers}
    demos = pipeline.demos()
    rollouts = stages.union_of_rollouts(stores, pipeline.specs, settings.rollouts)
    weights = {i: WeightResult.load(pipeline.dir.path / "weights" / "generalist" / slug(i)) for i in pipeline.ids}
    teachers: dict[str, Policies] = {
        k: load_policies(pipeline.teacher_path(k), pipeline.specs, s.device) for k in settings.teachers}
    generalist = load_policies(pipeline.policy_path("generalist"), pipeline.specs, s.device)[pipeline.ids[0]]
    rows = stages.unlabelled_rows(settings, demos, rollouts, weights, teachers)
    statistics = {k: stages.rollout_statistics(path) for k, path in stores.items()}
    out: dict[str, Any] = {}
    for i, name in enumerate(pipeline.ids):
        rates = [st[name]["successes"] / st[name]["n"] for st in statistics.values() if name in st]
        gap = distillation_gap(generalist, list(teachers.values()), rows, name, np.random.default_rng([s.seed, i]))
        result = next(r for r in evaluations["generalist"].rows if r.environment == name)
        facts = pipeline.teacher_path("scratch") / slug(name) / "policy.json"
        held_out = json.loads(facts.read_text())["training"].get("held_out_loss") if facts.exists() else None
        teacher = max(rates) if rates else None
        line = advice_line(result.successes / result.n, teacher, gap, weights[name].ess, int((demos.environment == name).sum()))
        out[name] = asdict(Diagnosis(line, None if teacher is None else 1 - teacher, held_out, gap, weights[name].auc,
                                     weights[name].ess))
    return out
