"""Which steps are learned from of episodes in which a person took over from a policy.

`human`, as in HG-DAgger (Kelly et al. 2019, arXiv 1810.02890): windows begin where the person
acted, and their chunks end where the person let go. `weighted`, as in IWR (Mandlekar et al. 2020,
arXiv 2012.06733): all steps are learned from, and the person's interventions are drawn as often as
everything else together. Episodes that are not marked, such as plain demonstrations, are learned
from whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import numpy as np

from alltrades.data.steps import Steps
from alltrades.errors import UserError

Manner = Literal["human", "weighted", "all"]
WORDS = {
    "human": "those alone",
    "weighted": "all, those with half of the weight",
    "all": "all alike",
}


def learned_from(steps: Steps, manner: Manner) -> Steps:
    """The steps with `intervention` and `emphasis` as trainings are to use them. O(steps).

    With "human" episodes without any intervention are left out, as nothing is learned from them.
    """
    marks = steps.intervention
    if marks is None or not (marks >= 0).any():
        return steps
    if manner == "human":
        starts = steps.starts
        some = np.add.reduceat((marks != 0).astype(np.int64), starts) > 0
        return steps if some.all() else steps.select(some | ~steps.has_actions)
    plain = replace(steps, intervention=None)
    return plain if manner == "all" else replace(plain, emphasis=_halves(steps, marks == 1))


def lines(steps: Steps, manner: Manner) -> Iterator[str]:
    """How much of each environment's marked episodes a person took, and what is learned from, in
    words.

    Raises UserError where nothing of an environment would be.
    """
    marks = steps.intervention
    if marks is None:
        return
    taken = np.add.reduceat((marks == 1).astype(np.int64), steps.starts)  # (E,)
    marked = marks[steps.starts] >= 0
    for name in dict.fromkeys(steps.environment.tolist()):
        mine = (steps.environment == name) & steps.has_actions
        those = mine & marked
        if not those.any():
            continue
        count, hit = int(those.sum()), int((taken[those] > 0).sum())
        yield (
            f"interventions of {name}: a person took {taken[those].sum()} of "
            f"{steps.lengths[those].sum()} steps, in {hit} of {count} episodes; learned from are "
            f"{WORDS[manner]}"
        )
        if manner == "human" and not hit and not (mine & ~marked).any():
            raise UserError(
                f"a policy acted at every step of all {count} episodes of '{name}': nothing is "
                "left to learn from with --demos.interventions human; expected interventions, or "
                "plain demonstrations; add a store of them, or say weighted or all"
            )


def _halves(steps: Steps, taken: np.ndarray) -> np.ndarray:
    """(S,) f32: of each environment's steps with actions, half of the weight on those that a person
    took (S,), where there are both kinds.
    """
    out = np.ones(len(steps), np.float32)
    acted = np.repeat(steps.has_actions, steps.lengths)
    of_step = steps.environment[steps.episode_of_step]
    for name in np.unique(steps.environment):
        mine = acted & (of_step == name)
        parts = mine & taken, mine & ~taken
        if all(part.any() for part in parts):
            for part in parts:
                out[part] = mine.sum() / (2 * part.sum())
    return out
