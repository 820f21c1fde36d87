"""The stage that draws what generalists see of the rollouts that they learn from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alltrades.data.store import EpisodeStore
from alltrades.pipeline.demonstrations import Demonstrations
from alltrades.pipeline.drawing import draw, lacking
from alltrades.pipeline.generalist import Sources, rows_of
from alltrades.pipeline.rollouts import Teacher, first_numbers
from alltrades.settings.parts import DistillSettings


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
        rollouts = EpisodeStore.open(teacher.rollouts)
        draw(demos.context, f"draw/{teacher.name}", rollouts, mine, out, others=others)


def _kept(
    demos: Demonstrations, sources: Sources, settings: DistillSettings
) -> dict[Teacher, list[int]]:
    """Of each teacher, the numbers of the episodes that a generalist learns from and of which it
    lacks what it sees.
    """
    context = demos.context
    observe = context.settings.policy_of(settings).observe
    sees = {e.id: e.seeing(observe).observation.keys() for e in context.interfaces}
    blank = {}
    for teacher in sources.teachers:
        without = lacking(context, EpisodeStore.open(teacher.rollouts))
        blank[teacher] = [name for name, fields in without.items() if fields & sees[name]]
    if not any(blank.values()):
        return {}
    steps = demos.steps()
    rows = rows_of(sources, settings, steps, [t.name for t in sources.teachers])
    learned = np.unique(rows.steps.episode_of_step[rows.probability > 0])
    out, first = {}, len(steps.ends)  # rollouts come behind demonstrations, store by store
    for teacher in sources.teachers:
        rollouts = EpisodeStore.open(teacher.rollouts)
        numbers = first_numbers(rollouts, context.ids, settings.rollouts)
        mine = numbers[np.isin(np.arange(first, first + len(numbers)), learned)]
        looked = np.isin(rollouts.columns()["environment"][mine], blank[teacher])
        out[teacher] = mine[looked].tolist()
        first += len(numbers)
    return out
