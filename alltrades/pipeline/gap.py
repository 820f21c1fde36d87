"""What a generalist keeps of its teachers: its success beside that of the teacher which was best in
each environment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from alltrades.envs.rollouts.differences import paired_difference
from alltrades.envs.rollouts.evaluation import SUCCESS, Evaluation, agreed
from alltrades.envs.rollouts.statistics import interval_of, resampled_means
from alltrades.pipeline.visits import best_teachers
from alltrades.settings.rows import GENERALIST, Row

SAMPLES = 10_000


def gap(
    evaluations: Mapping[str, Evaluation],
    teachers: Sequence[str],
    rollouts: Mapping[str, Mapping[str, Mapping[str, Any]]],
) -> dict[str, Any] | None:
    """The generalist against its best teachers, as plain values: in each environment the teacher
    that was best on the starts of its rollouts, which no evaluation uses. None where the generalist
    or none of its teachers was evaluated, or nothing says success.

    Args:
        evaluations: by row.
        teachers: names as in `distill.teachers`.
        rollouts: what became of each teacher's (see `rollout_statistics`).

    "kept" is the generalist's mean success over theirs, with a 95 % bootstrap interval over starts;
    None where no teacher succeeds, the interval too where they do on so few that not all samples of
    starts have one.
    """
    rows = {name: str(Row.of_teacher(name)) for name in teachers}
    there = {name: row for name, row in rows.items() if row in evaluations and name in rollouts}
    if GENERALIST not in evaluations or not there:
        return None
    same = agreed({row: evaluations[row] for row in (GENERALIST, *there.values())})
    told = [r.environment for r in same[GENERALIST].rows if r.metric == SUCCESS]
    best = best_teachers({name: rollouts[name] for name in there})
    told = [name for name in told if name in best]
    if not told:
        return None
    own = {row: {r.environment: r for r in e.rows} for row, e in same.items()}
    chosen = tuple(own[there[best[name]]][name] for name in told)
    mine = replace(same[GENERALIST], rows=tuple(own[GENERALIST][name] for name in told))
    theirs = Evaluation("teachers", chosen)
    pair = paired_difference(mine, theirs)
    drawn = [
        resampled_means([r.success().astype(float) for r in e.rows], SAMPLES, 0, (0.0, 1.0))
        for e in (mine, theirs)
    ]  # of the same starts, as they have the same seed
    means = [float(np.mean([r.success().mean() for r in e.rows])) for e in (mine, theirs)]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = drawn[0] / drawn[1]
    known = bool(np.isfinite(ratios).all())  # else some draws of teachers never succeed
    return {
        "row": GENERALIST,
        "mean": means[0],
        "teachers_mean": means[1],
        "kept": means[0] / means[1] if means[1] > 0 else None,
        "interval": list(interval_of(ratios)) if known else None,
        "environments": {
            name: {
                "teacher": best[name],
                "success": float(a.success().mean()),
                "teacher_success": float(b.success().mean()),
                **pair.to_json()["per_environment"][name],
            }
            for name, a, b in zip(told, mine.rows, chosen)
        },
    }
