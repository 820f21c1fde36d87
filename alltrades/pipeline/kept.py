"""The stage that draws what generalists see of the rollouts that they learn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from alltrades.pipeline.context import Context
from alltrades.pipeline.demonstrations import Demonstrations
from alltrades.pipeline.drawing import draw, lacking
from alltrades.pipeline.generalist import Sources, rows_of
from alltrades.pipeline.rollouts import Teacher, first_numbers
from alltrades.settings.distill import DistillSettings


def draw_kept(demos: Demonstrations, learning: Sequence[tuple[Sources, DistillSettings]]) -> None:
    """Draw what generalists see of rollouts that were recorded without pictures: of the episodes
    with a row that one of them may draw, once for all. Their weights must be there.
    """
    kept: dict[Teacher, set[int]] = {}
    for sources, settings in learning:
        for teacher, numbers in _kept(demos, sources, settings).items():
            kept.setdefault(teacher, set()).update(numbers)
    for teacher, mine in kept.items():
        *others, out = teacher.pictures
        rollouts = demos.context.stores.open(teacher.rollouts)
        wanted = dict.fromkeys(mine, 1)
        draw(demos.context, f"draw/{teacher.name}", rollouts, wanted, out, others)


def expected(context: Context, teacher: Teacher) -> list[int]:
    """Numbers of a teacher's rollouts that generalists which look learn from for certain: what is
    known before weights are. Of others, such as those chosen by their returns, nothing is.
    """
    rollouts = context.stores.open(teacher.rollouts)
    columns, without = rollouts.columns(), lacking(context, rollouts)
    found: set[int] = set()
    for settings in context.settings.distillations().values():
        if teacher.name in settings.teachers:
            looks = _looking(context, settings, without)
            numbers = first_numbers(rollouts, looks, settings.rollouts)
            sure = columns["success"][numbers] | (not settings.weighing.filtered)
            found.update(numbers[sure].tolist())
    return sorted(found)


def _looking(
    context: Context, settings: DistillSettings, without: Mapping[str, set[str]]
) -> list[str]:
    """The environments of which a generalist sees some of the fields that are lacking."""
    observe = context.settings.policy_of(settings).observe
    sees = {e.id: e.seeing(observe).observation.keys() for e in context.interfaces}
    return [name for name, fields in without.items() if fields & sees[name]]


def _kept(
    demos: Demonstrations, sources: Sources, settings: DistillSettings
) -> dict[Teacher, list[int]]:
    """Of each teacher, the numbers of the episodes that a generalist learns from and of which it
    lacks what it sees.
    """
    context = demos.context
    blank = {}
    for teacher in sources.teachers:
        without = lacking(context, context.stores.open(teacher.rollouts))
        blank[teacher] = _looking(context, settings, without)
    if not any(blank.values()):
        return {}
    steps = demos.steps()
    rows = rows_of(sources, settings, steps, [t.name for t in sources.teachers])
    learned = np.unique(rows.steps.episode_of_step[rows.probability > 0])
    out, first = {}, len(steps.ends)  # rollouts come behind demonstrations, store by store
    for teacher in sources.teachers:
        rollouts = context.stores.open(teacher.rollouts)
        numbers = first_numbers(rollouts, context.ids, settings.rollouts)
        mine = numbers[np.isin(np.arange(first, first + len(numbers)), learned)]
        looked = np.isin(rollouts.columns()["environment"][mine], blank[teacher])
        out[teacher] = mine[looked].tolist()
        first += len(numbers)
    return out
