"""The stage that draws what generalists and their teachers see of the rollouts that are learned
from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from alltrades.pipeline.context import Context
from alltrades.pipeline.demonstrations import Demonstrations
from alltrades.pipeline.drawing import draw, lacking, looked_at
from alltrades.pipeline.generalist import Sources, rows_of
from alltrades.pipeline.rollouts import Teacher, first_numbers
from alltrades.settings.distill import DistillSettings


def draw_kept(demos: Demonstrations, learning: Sequence[tuple[Sources, DistillSettings]]) -> None:
    """Draw what generalists and their teachers see of rollouts that were recorded without pictures:
    of the episodes with a row that one of them may draw, once for all. Their weights must be there.
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
            looks = _looking(without, _seen(context, settings))
            numbers = first_numbers(rollouts, looks, settings.rollouts)
            sure = columns["success"][numbers] | (not settings.weighing.filtered)
            found.update(numbers[sure].tolist())
    return sorted(found)


def _seen(context: Context, settings: DistillSettings) -> dict[str, set[str]]:
    """By environment, the fields that a generalist sees."""
    observe = context.settings.policy_of(settings).observe
    return {e.id: {*e.seeing(observe).observation} for e in context.interfaces}


def _looking(without: Mapping[str, set[str]], seen: Mapping[str, set[str]]) -> list[str]:
    """The environments of which some of the fields that are lacking are seen."""
    return [name for name, fields in without.items() if fields & seen[name]]


def _kept(
    demos: Demonstrations, sources: Sources, settings: DistillSettings
) -> dict[Teacher, list[int]]:
    """Of each teacher, the numbers of the episodes that a generalist learns from and which lack
    what it sees, or what the teacher does, who is asked at their states.
    """
    context = demos.context
    without = {t: lacking(context, context.stores.open(t.rollouts)) for t in sources.teachers}
    if not any(without.values()):
        return {}
    policies, blank = sources.policies(), {}
    for teacher in sources.teachers:
        seen = _seen(context, settings)
        for name, fields in looked_at(context, policies[teacher.name]).items():
            seen[name] |= fields
        blank[teacher] = _looking(without[teacher], seen)
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
