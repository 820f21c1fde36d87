"""Where the error of a generalist comes from, per environment, and one line on what to do about it.

In this order: a generalist that is below its best teacher by more than chance lost something in
stage 2, which costs no demonstrations to mend. Where it does not even copy its teachers on the
states that it was trained on, it needs more steps or width; where it does, it has seen too few of
their states: more rollouts. Otherwise its teacher limits it, and what that needs is read off its
errors (see `Lesson`). Where nothing says success it goes by returns, of which none is known to be
enough.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from alltrades.data.weights.estimate import SEPARABLE
from alltrades.envs.rollouts.differences import SPREAD
from alltrades.envs.rollouts.statistics import mean_interval, wilson

SOLVED = 0.95  # success from which an environment needs nothing
# a generalist this far below its best teacher, and by more than chance, lost something in stage 2
TRAILS = 0.05
GAP = (
    0.05  # distillation gap, as a share of the chunks' variance, that is worth more steps or width
)
# a training error from which a policy has not learned its demonstrations, as a share of the error
# of nearest neighbours of other episodes, and of that of drawing recorded chunks at random
MISSES = 0.7
LITTLE = 1 / 3
# times its training error from which the held-out error says that a policy has seen too little
UNSEEN = 1.5
# of the loss before it, below which the loss of the last quarter still falls: the end of the
# learning rate's cycle alone brings some 5 %
FALLS = 0.9
OFTEN = 100  # times that a policy has seen each demonstration, before more of it help little
COPIED = 0.001  # error on others from which nothing is left to copy, in shares of the variance
# effective share of rollouts, before any guard, below which few of them are where demonstrations
# are
ESS_LOW = 0.3


class Measured(Protocol):
    """How well something acts. solved: it needs nothing. step: a difference that matters. said: its
    mean in words.
    """

    @property
    def mean(self) -> float: ...

    @property
    def interval(self) -> tuple[float, float]: ...

    @property
    def solved(self) -> bool: ...

    @property
    def step(self) -> float: ...

    @property
    def said(self) -> str: ...


@dataclass(frozen=True)
class Rate:
    """Successes of n episodes."""

    successes: int
    n: int

    @property
    def solved(self) -> bool:
        return self.mean >= SOLVED

    @property
    def step(self) -> float:
        return TRAILS

    @property
    def said(self) -> str:
        return f"{self.mean:.2f}"

    @property
    def mean(self) -> float:
        return self.successes / self.n

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.successes, self.n)


@dataclass(frozen=True)
class Returns:
    """Returns (n,) of episodes where nothing says success: no return is known to be enough."""

    values: np.ndarray

    @property
    def mean(self) -> float:
        return float(self.values.mean())

    @property
    def interval(self) -> tuple[float, float]:
        return mean_interval(self.values) or (-math.inf, math.inf)

    @property
    def solved(self) -> bool:
        return False

    @property
    def step(self) -> float:
        return SPREAD * float(self.values.std())

    @property
    def said(self) -> str:
        return f"{self.mean:.4g}"


@dataclass(frozen=True)
class Lesson:
    """What a policy has learned of its demonstrations; None where it was not measured. The errors
    are all E min |h - a|^2 over the variance of recorded chunks a.

    The training error comes first: one that is high needs more steps while its loss falls, and more
    width or depth otherwise, whatever else is true. One that is low, with a held-out error far
    above it, needs more demonstrations.

    Attributes:
        training: on the demonstrations that it learned from.
        held_out: on others.
        blind: of whoever knows nothing of the state, and draws recorded chunks at random.
        neighbours: of the nearest states of other episodes, who have learned nothing.
        steps: of its training.
        losses: mean training loss in each quarter of them, or none.
        passes: times that it has seen each demonstration.
    """

    training: float | None = None
    held_out: float | None = None
    blind: float | None = None
    neighbours: float | None = None
    steps: int | None = None
    losses: tuple[float, ...] = ()
    passes: float | None = None

    @property
    def little(self) -> bool:
        """Whether it has hardly learned its own demonstrations."""
        return self._beside is not None

    @property
    def _beside(self) -> str | None:
        """The error beside which its own shows that it has learned little, in words."""
        bounds = (("chance", self.blind, LITTLE), ("neighbours", self.neighbours, MISSES))
        for what, error, share in bounds:
            if self.training is not None and error is not None and self.training > share * error:
                return f"{what} {error:.2g}"
        return None

    @property
    def overfits(self) -> bool:
        """Whether it knows its own demonstrations far better than others."""
        if self.training is None or self.held_out is None:
            return False
        return self.held_out > UNSEEN * self.training

    @property
    def falls(self) -> bool:
        """Whether its training loss is known to fall still."""
        return len(self.losses) > 1 and self.losses[-1] < FALLS * self.losses[-2]

    @property
    def remedy(self) -> str:
        """What helps where training and held-out error are alike."""
        if self.passes is None:
            return "more steps or width"
        more = self.falls or self.passes < OFTEN
        return "train them longer" if more else "more width or depth"

    @property
    def said(self) -> str:
        """The errors that it is judged by, in words."""
        errors = {"error": self.training, "others": self.held_out}
        words = [f"{name} {e:.2g}" for name, e in errors.items() if e is not None]
        return ", ".join(words if self._beside is None else [*words[:1], self._beside])


@dataclass(frozen=True)
class Diagnosis:
    """The sources of error in one environment; None where one was not measured.

    Attributes:
        teacher: the teacher with the highest lower end of its interval, over rollouts and
            evaluation.
        specialist_error: share of its episodes that fail; None where nothing says success.
        held_out_error: E|h - a|^2 over the variance of recorded chunks, of that teacher on
            demonstrations that nothing was trained on; None where the given store has no more than
            were used.
        held_out_loss: denoising loss of the specialist on held-out demonstrations, where selection
            measured it.
        demonstration_error: the same as held_out_error on the demonstrations that it learned from.
        blind_error, neighbour_error: see `Lesson`.
        steps, losses, passes: of that teacher's training (see `Lesson`).
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
    blind_error: float | None = None
    neighbour_error: float | None = None
    steps: int | None = None
    losses: tuple[float, ...] = ()
    passes: float | None = None
    distillation_gap: float | None = None
    auc: float | None = None
    ess: float | None = None


def above(a: Measured, b: Measured) -> float:
    """Lower end of the 95 % interval of a's mean minus b's for independent samples (of rates:
    Newcombe 1998, method 10).
    """
    difference = a.mean - b.mean
    return difference - math.hypot(a.mean - a.interval[0], b.interval[1] - b.mean)


def advice_line(
    generalist: Measured,
    teacher: Measured | None,
    gap: float | None,
    lesson: Lesson,
    auc_low: float | None,
    ess: float | None,
    demos: int,
) -> str:
    """One line, of at most 120 characters.

    Args:
        teacher: the best teacher. lesson: what it has learned. gap, ess: see `Diagnosis`.
        auc_low: lower end of the AUC's interval.
        demos: labelled demonstrations of the environment.
    """
    own = generalist.said
    if generalist.solved:
        return f"solved ({own})"
    if teacher is None:
        what = "success" if isinstance(generalist, Rate) else "return"
        return f"{what} {own}; no teacher was rolled out here: roll one out to learn why"
    best = teacher.said
    if generalist.mean < teacher.mean - teacher.step and above(teacher, generalist) > 0:
        if gap is not None and gap > GAP:
            return (
                f"generalist {own} trails its teachers' {best} and does not copy them (gap "
                f"{gap:.2f}): more distillation steps or width"
            )
        seen = (
            "without having seen rollouts of theirs" if gap is None else "although it copies them"
        )
        return f"generalist {own} trails its teachers' {best} {seen}: more rollouts"
    if teacher.solved:
        return f"as good as its teachers ({own} and {best}, no more than chance apart)"
    if lesson.little:
        return (
            f"limited by its teachers ({best}): they hardly know their demonstrations "
            f"({lesson.said}): {lesson.remedy}"
        )
    if lesson.overfits:
        return (
            f"limited by its teachers ({best}): they only know their own "
            f"({lesson.said}): more demonstrations (now {demos})"
        )
    apart = f"AUC above {auc_low:.2f}" if auc_low is not None and auc_low > SEPARABLE else None
    if apart is None and ess is not None and ess < ESS_LOW:
        apart = f"ESS {ess:.2f}"
    if apart is not None:
        return (
            f"limited by its teachers ({best}): they leave the demonstrations' states "
            f"({apart}): more demonstrations (now {demos})"
        )
    if lesson.held_out is not None and lesson.held_out < COPIED:
        return (
            f"limited by its demonstrations: its teachers ({best}) do what these do "
            f"({lesson.said}): demonstrations that do better"
        )
    if lesson.held_out is not None:
        return (
            f"limited by its teachers ({best}): they err on all demonstrations alike "
            f"({lesson.said}): {lesson.remedy}"
        )
    return f"limited by its teachers ({best}): more demonstrations (now {demos})"


def best_teacher(rates: Mapping[str, Measured]) -> str | None:
    """The teacher with the highest lower end of its interval; the first named wins ties."""
    return max(rates, key=lambda kind: rates[kind].interval[0]) if rates else None
