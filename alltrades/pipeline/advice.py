"""Where the error of a generalist comes from, per environment, and one line on what to do about it.

In this order: a generalist that is below its best teacher by more than chance lost something in
stage 2, which costs no demonstrations to mend. Where it does not even copy its teachers on the
states that it was trained on, it needs more steps or width; where it does, it has seen too few of
their states: more rollouts. Otherwise its teacher limits it: one that reproduces its own
demonstrations hardly better than their nearest neighbours predict them needs more steps or width,
any other more demonstrations.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from alltrades.data.steps import Steps
from alltrades.data.store import EpisodeStore
from alltrades.data.weights.estimate import (
    SEPARABLE,
    WeightResult,
    WeightSettings,
    estimate_weights,
)
from alltrades.envs.rollouts.evaluation import Evaluation
from alltrades.envs.rollouts.statistics import wilson
from alltrades.pipeline import stages
from alltrades.pipeline.acting import Policies, load_policies, slug
from alltrades.pipeline.rundir import policy_digests
from alltrades.policies.learning.diagnosis import (
    demonstration_error,
    distillation_gap,
    neighbour_error,
)
from alltrades.settings.rows import Row
from alltrades.system.streams import stream

if TYPE_CHECKING:
    from alltrades.pipeline.pipeline import Pipeline

SOLVED = 0.95  # success from which an environment needs nothing
# a generalist this far below its best teacher, and by more than chance, lost something in stage 2
TRAILS = 0.05
GAP = (
    0.05  # distillation gap, as a share of the chunks' variance, that is worth more steps or width
)
# of the error of nearest neighbours of other episodes: from which a teacher has not learned its
# demonstrations
MISSES = 0.7
# effective share of rollouts, before any guard, below which few of them are where demonstrations
# are
ESS_LOW = 0.3
# demonstrations per environment, beside those that are learned from, on which teachers are measured
HELD_OUT = 5


@dataclass(frozen=True)
class Rate:
    """Successes of n episodes."""

    successes: int
    n: int

    @property
    def mean(self) -> float:
        return self.successes / self.n

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.successes, self.n)


@dataclass(frozen=True)
class Diagnosis:
    """The sources of error in one environment; None where one was not measured.

    Attributes:
        teacher: the teacher with the highest lower end of its interval, over rollouts and
            evaluation.
        specialist_error: share of its episodes that fail.
        held_out_error: E|h - a|^2 over the variance of recorded chunks, of that teacher on
            demonstrations that nothing was trained on; None where the given store has no more than
            were used.
        held_out_loss: denoising loss of the specialist on held-out demonstrations, where selection
            measured it.
        demonstration_error: the same as held_out_error on the demonstrations that it learned from.
        neighbour_error: the same of the nearest neighbours of other episodes, who have learned
            nothing.
        distillation_gap: E|g - h|^2 over the variance of the teachers' chunks, on rollout states.
        auc, ess: held-out AUC of demonstrations against rollouts of all outcomes, and effective
            share of the rollouts under their relative density ratio, before any guard; whatever
            kind of weights stage 2 used.
    """

    line: str
    teacher: str | None = None
    specialist_error: float | None = None
    held_out_error: float | None = None
    held_out_loss: float | None = None
    demonstration_error: float | None = None
    neighbour_error: float | None = None
    distillation_gap: float | None = None
    auc: float | None = None
    ess: float | None = None


def above(a: Rate, b: Rate) -> float:
    """Lower end of the 95 % interval of a's rate minus b's for independent samples (Newcombe 1998,
    method 10).
    """
    difference = a.mean - b.mean
    return difference - math.hypot(a.mean - a.interval[0], b.interval[1] - b.mean)


def advice_line(
    generalist: Rate,
    teacher: Rate | None,
    gap: float | None,
    missed: float | None,
    neighbours: float | None,
    auc_low: float | None,
    ess: float | None,
    demos: int,
) -> str:
    """One line.

    Args:
        teacher: the best teacher. gap, missed, neighbours, ess: see `Diagnosis`. auc_low: lower end
            of the AUC's interval.
        demos: labelled demonstrations of the environment.
    """
    own = generalist.mean
    if own >= SOLVED:
        return f"solved ({own:.2f})"
    if teacher is None:
        return f"success {own:.2f}; no teacher was rolled out here: roll one out to learn why"
    best = teacher.mean
    if own < best - TRAILS and above(teacher, generalist) > 0:
        if gap is not None and gap > GAP:
            return (
                f"generalist {own:.2f} trails its teachers' {best:.2f} and does not copy them "
                f"(gap {gap:.2f}): "
                "more distillation steps or width"
            )
        seen = (
            "without having seen rollouts of theirs" if gap is None else "although it copies them"
        )
        return f"generalist {own:.2f} trails its teachers' {best:.2f} {seen}: more rollouts"
    if best >= SOLVED:
        return f"as good as its teachers ({own:.2f} and {best:.2f}, no more than chance apart)"
    if missed is not None and neighbours is not None and missed > MISSES * neighbours:
        return (
            f"limited by its teachers ({best:.2f}), which reproduce their own demonstrations "
            "hardly better than neighbours "
            f"would (error {missed:.2f} and {neighbours:.2f}): more steps or width of the teachers"
        )
    apart = f"AUC above {auc_low:.2f}" if auc_low is not None and auc_low > SEPARABLE else None
    if apart is None and ess is not None and ess < ESS_LOW:
        apart = f"ESS {ess:.2f}"
    if apart is not None:
        return (
            f"limited by its teachers ({best:.2f}), which visit other states than the "
            f"demonstrations ({apart}): "
            f"more demonstrations (now {demos})"
        )
    return f"limited by its teachers ({best:.2f}): more demonstrations (now {demos})"


def best_teacher(rates: Mapping[str, Rate]) -> str | None:
    """The teacher with the highest lower end of its interval; the first named wins ties."""
    return max(rates, key=lambda kind: rates[kind].interval[0]) if rates else None


def held_out(pipeline: Pipeline) -> Steps:
    """Demonstrations that nothing was trained on: further ones of the experts, or those of a given
    store behind the first.
    """
    if pipeline.s.demos.path is None:
        return EpisodeStore.open(pipeline.held_out_path).steps(pipeline.ids)
    steps, used = (
        EpisodeStore.open(pipeline.demos_path).steps(pipeline.ids),
        pipeline.s.demos.episodes,
    )
    keep = np.zeros(len(steps.environment), bool)
    for name in pipeline.ids:
        keep[
            np.flatnonzero((steps.environment == name) & steps.has_actions)[used : used + HELD_OUT]
        ] = True
    return steps.select(keep)


def advice_key(pipeline: Pipeline, evaluations: Mapping[str, Evaluation]) -> dict[str, Any]:
    """What advice depends on: stores, policies, settings of stage 2, and the evaluations of
    generalist and teachers.
    """
    s = pipeline.s
    settings = s.distill
    seen = pipeline.held_out_path if s.demos.path is None else pipeline.demos_path
    rows = {"generalist", *(str(Row.of_teacher(k)) for k in settings.teachers)}
    return pipeline.demos_key() | {
        "distill": settings.model_dump(mode="json", exclude={"rounds", "train"}),
        "rollouts": {
            k: EpisodeStore.open(path).digest()
            for k, path in pipeline.teacher_stores(settings).items()
        },
        "held out": EpisodeStore.open(seen).digest(),
        "generalist": policy_digests(pipeline.policy_path("generalist")),
        "teachers": {k: policy_digests(pipeline.teacher_path(k)) for k in settings.teachers},
        "evaluations": {name: e.to_json() for name, e in evaluations.items() if name in rows},
    }


def advise(
    pipeline: Pipeline, evaluations: Mapping[str, Evaluation], each: Callable[[int], None]
) -> dict[str, Any]:
    """Diagnosis of the row "generalist" in every environment, as plain data; `each`: called with
    environments done.
    """
    s = pipeline.s
    settings = s.distill
    stores = pipeline.teacher_stores(settings)
    demos, unseen = pipeline.demos(), held_out(pipeline)
    rollouts = stages.union_of_rollouts(stores, pipeline.specs, settings.rollouts)
    weights = {
        i: WeightResult.load(pipeline.dir.path / "weights" / "generalist" / slug(i))
        for i in pipeline.ids
    }
    teachers: dict[str, Policies] = {
        k: load_policies(pipeline.teacher_path(k), pipeline.specs, s.device)
        for k in settings.teachers
    }
    generalist = load_policies(pipeline.policy_path("generalist"), pipeline.specs, s.device)[
        pipeline.ids[0]
    ]
    rows = stages.unlabelled_rows(settings, demos, rollouts, weights, teachers)
    statistics = {k: stages.rollout_statistics(path) for k, path in stores.items()}
    out: dict[str, Any] = {}
    for name in pipeline.ids:
        rates = _rates(name, settings.teachers, statistics, evaluations)
        best, rng = best_teacher(rates), stream(s.seed, "advice", name)
        gap = distillation_gap(generalist, teachers, rows, name, rng)
        own = demos.select(demos.environment == name)
        outside = (
            None
            if best is None
            else demonstration_error(
                teachers[best][name], unseen, name, stream(s.seed, "advice", name, "held out")
            )
        )
        missed, neighbours = (
            (None, None)
            if best is None
            else (
                measure(teachers[best][name], own, name, rng)
                for measure in (demonstration_error, neighbour_error)
            )
        )
        result = next(r for r in evaluations["generalist"].rows if r.environment == name)
        facts = pipeline.teacher_path("scratch") / slug(name) / "policy.json"
        held_out_loss = (
            json.loads(facts.read_text())["training"].get("held_out_loss")
            if facts.exists()
            else None
        )
        teacher = None if best is None else rates[best]
        labelled = int(((demos.environment == name) & demos.has_actions).sum())
        shift = weights[name]
        if shift.auc is None or settings.weights.filtered:  # not estimated, or of successes only
            visits = rollouts.select(
                (rollouts.environment == name) & (rollouts.source == str(best))
            )
            shift = estimate_weights(
                own, visits, WeightSettings(kind="ratio"), stream(s.seed, "advice", name, "shift")
            )
        line = advice_line(
            Rate(result.successes, result.n),
            teacher,
            gap,
            missed,
            neighbours,
            None if shift.auc_interval is None else shift.auc_interval[0],
            shift.raw_ess,
            labelled,
        )
        out[name] = asdict(
            Diagnosis(
                line,
                best,
                None if teacher is None else 1 - teacher.mean,
                outside,
                held_out_loss,
                missed,
                neighbours,
                gap,
                shift.auc,
                shift.raw_ess,
            )
        )
        each(len(out))
    return out


def _rates(
    name: str,
    teachers: tuple[str, ...],
    statistics: Mapping[str, Mapping[str, Mapping[str, int]]],
    evaluations: Mapping[str, Evaluation],
) -> dict[str, Rate]:
    """Success of every teacher in one environment, over its rollouts and, where it was a row, its
    evaluation.
    """
    out = {}
    for kind in teachers:
        found = statistics[kind].get(name, {"successes": 0, "n": 0})
        row = evaluations.get(str(Row.of_teacher(kind)))
        measured = [r for r in row.rows if r.environment == name] if row is not None else []
        n = found["n"] + sum(r.n for r in measured)
        if n:
            out[kind] = Rate(found["successes"] + sum(r.successes for r in measured), n)
    return out
