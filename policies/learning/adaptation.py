"""Rows from which a generalist takes a new environment and keeps its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from alltrades.data.steps import Steps
from alltrades.policies.learning.distillation import RECORDED, Stage2, equal_episodes, label_rows
from alltrades.policies.learning.teachers import Teachers
from alltrades.policies.model.policy import DiffusionPolicy
from alltrades.system.compute.executor import Executor


@dataclass(frozen=True)
class Source:
    """Episodes that a generalist learns from.

    Attributes:
        teacher: of each environment, the index of the one that labels its rows, or RECORDED for
            their recorded actions, which leaves out steps without. Environments not named are left
            out.
        share: of an environment's rows, beside that of other sources that have it.
        old: whether they are replay.
    """

    steps: Steps
    teacher: Mapping[str, int]
    share: float = 1.0
    old: bool = False


def adaptation_rows(sources: Sequence[Source]) -> Stage2:
    """Rows of all sources before their teachers label them: in each source and environment every
    episode counts alike. All are what is to be done: a good outcome, where that is an input.
    """
    probability, teacher = [], []
    for source in sources:
        steps = source.steps
        of_step = steps.environment[steps.episode_of_step]
        own = np.zeros(len(of_step))
        labelled = np.array([source.teacher.get(str(e), RECORDED) for e in steps.environment], int)
        kinds = labelled[steps.episode_of_step]
        useful = np.isin(of_step, list(source.teacher)) & ((kinds != RECORDED) | steps.demonstrated)
        for name in source.teacher:
            rows = np.flatnonzero(useful & (of_step == name))
            if len(rows):
                own[rows] = source.share * equal_episodes(steps, rows)
        if steps.begins is not None:
            own = np.where(kinds == RECORDED, own * steps.begins, own)
        probability.append(own)
        teacher.append(np.where(own > 0, kinds, RECORDED))
    steps = Steps.concatenate([source.steps for source in sources])
    p = np.concatenate(probability)
    return Stage2(
        steps=steps,
        probability=p,
        loss_weight=np.ones(len(p)),
        outcome=np.ones(len(p)),
        teacher=np.concatenate(teacher),
        demonstration=np.concatenate(
            [np.full(len(s.steps), not s.old and k == 0) for k, s in enumerate(sources)]
        ),
    )


def labelled(
    rows: Stage2,
    teachers: Teachers,
    policy: DiffusionPolicy,
    *,
    steps: int,
    seed: int,
    executor: Executor | None = None,
) -> Stage2:
    """The same with a chunk for every row that a teacher labels, in the sizes of `policy`; see
    `label_rows`.
    """
    if not teachers or not (rows.teacher >= 0).any():
        return rows
    rows = label_rows(rows, teachers, steps=steps, seed=seed, executor=executor)
    assert rows.labels is not None
    chunks = policy.layout.fit_action(rows.labels.chunks)
    return replace(rows, labels=replace(rows.labels, chunks=chunks))


def shares(old: Sequence[str], new: Sequence[str], replay: float) -> dict[str, float]:
    """Of every environment in a batch: `replay` for the old ones together, each alike."""
    return {name: replay / len(old) for name in old} | {
        name: (1 - replay) / len(new) for name in new
    }
