"""Policies that learn from demonstrations: specialists of one environment, and the labeled-only
multi-task policy.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from alltrades.data.steps import Steps
from alltrades.policies.learning.batches import (
    PLAIN,
    Augmentation,
    TrainingData,
    demonstration_data,
)
from alltrades.policies.learning.checkpoints import Place, read_average
from alltrades.policies.learning.held_out import HeldOutLoss, held_out_batch, hold_out
from alltrades.policies.learning.objectives import Linear
from alltrades.policies.learning.teachers import Teachers
from alltrades.policies.learning.training import Goal, Trainer
from alltrades.policies.model.policy import DiffusionPolicy
from alltrades.policies.settings import TrainSettings
from alltrades.system.reporting import Report

GoalOf = Callable[[TrainingData, DiffusionPolicy], Goal]  # made anew for every training


@dataclass
class Fit:
    """A trained policy and what its selection saw.

    Attributes:
        steps: after which it was kept.
        held_out: denoising loss on held-out episodes at that step, None without selection.
        course: mean training loss in each quarter of these steps (see `Health.course`); none where
            its weights were those of another training on its way.
    """

    policy: DiffusionPolicy
    steps: int
    held_out: float | None
    course: tuple[float, ...] = ()


@dataclass(frozen=True)
class DemonstrationFit:
    """Fits one policy to demonstrations.

    Attributes:
        initial: the policy before its training, which trains a copy: one with fresh weights, or a
            trained one to fine-tune.
        seed: of batches and noise.
        augmentation: its symmetries are used where `train.symmetry` says so.
        goal: default the denoising loss, uniform over environments, where held-out losses of all
            rows count alike; with one they count in proportion to its objective's preference.
        teachers: whose predictions the goal asks for (see `TrainingData`).
        place: folder of checkpoints; where `last` keeps its averages, and `holdout` looks for them
            before it trains on all episodes.
        report: gets the steps of all trainings, and the metrics of the one that is kept.
    """

    initial: DiffusionPolicy
    train: TrainSettings
    seed: int
    augmentation: Augmentation = PLAIN
    goal: GoalOf | None = None
    teachers: Teachers = field(default_factory=dict)
    place: Place = Place()
    report: Report = Report()

    def fit(self, demos: Steps, selection: Literal["last", "holdout"] = "last") -> Fit:
        """`last` or `holdout` by name; episodes of environments that the policy does not know are
        ignored.
        """
        demos = demos.select(np.isin(demos.environment, self.initial.layout.ids))
        return self.holdout(demos) if selection == "holdout" else self.last(demos)

    def last(self, demos: Steps) -> Fit:
        """The averaged weights after all steps."""
        return self._train(demos, self.train.steps, self.place, self.report)

    def holdout(self, demos: Steps) -> Fit:
        """Trains first with a fifth of each environment's episodes (at least one) held out, finds
        the number of steps with the lowest held-out loss, then trains on all episodes for that
        many.

        Environments with fewer than 3 episodes hold none out; where all are such, all steps are
        taken.
        """
        held, place = hold_out(demos, self.seed), replace(self.place, averages=None)
        steps = self.train.steps
        if not held.any():
            return self._train(demos, steps, place, self.report)
        choosing, training = self.report.parts([steps, steps])
        lowest, best = self._look(demos, held, choosing.unrecorded())
        self.place.selected()
        if self.place.averages is not None:
            policy = self._copy()
            if read_average(self.place.averages, best, policy):
                return Fit(policy, best, lowest)
        return replace(self._train(demos, best, place, training), held_out=lowest)

    def _look(self, demos: Steps, held: np.ndarray, report: Report) -> tuple[float, int]:
        """Lowest loss on the held-out episodes (E,), and the step that has it."""
        policy = self._copy()
        data = self._data(demos.select(~held), policy, self.place)
        kept = demonstration_data(demos.select(held), policy, self.augmentation.symmetric(False))
        goal = None if self.goal is None else self.goal(data, policy)
        objective = None if goal is None else goal.objective
        judge = None if objective is None else Linear(objective.environments, objective.weights())
        look = HeldOutLoss([held_out_batch(kept, self.seed)], [self.seed], self.train.steps, judge)
        trainer = Trainer(policy, data, self.train, self.seed, goal, held_out=look)
        _finish(trainer, replace(self.place, averages=None).within("selection"), report)
        return min((losses[0], step) for step, losses in trainer.curve.items())

    def _train(self, demos: Steps, steps: int, place: Place, report: Report) -> Fit:
        policy = self._copy()
        data = self._data(demos, policy, place)
        goal = None if self.goal is None else self.goal(data, policy)
        trainer = Trainer(policy, data, self.train, self.seed, goal, total=steps)
        return Fit(
            _finish(trainer, place.within("training"), report), steps, None, trainer.course()
        )

    def _data(self, demos: Steps, policy: DiffusionPolicy, place: Place) -> TrainingData:
        shown = self.augmentation.symmetric(self.train.symmetry)
        return demonstration_data(demos, policy, shown, place.work, self.teachers)

    def _copy(self) -> DiffusionPolicy:
        return copy.deepcopy(self.initial).train()


def _finish(trainer: Trainer, place: Place, report: Report) -> DiffusionPolicy:
    """Train to the end and keep it: an interrupted fit does not repeat its finished part."""
    policy = trainer.fit(place, report)
    if place.work is not None:
        trainer.save(place.work)
    return policy
