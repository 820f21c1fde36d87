"""Specialists of many environments, trained together: to the last step, to the step that held-out
episodes prefer, or with the setting that cross-validation over episodes chooses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alltrades.data.interface import Interface
from alltrades.data.layout import cut
from alltrades.data.steps import Steps
from alltrades.policies.learning.batches import PLAIN, Augmentation
from alltrades.policies.learning.checkpoints import Place
from alltrades.policies.learning.demonstrations import Fit
from alltrades.policies.learning.held_out import hold_out
from alltrades.policies.learning.initial import make_normalizer, make_normalizers
from alltrades.policies.learning.selection import Choice, choose, fold_of_episode
from alltrades.policies.learning.stacked_training import (
    Candidate,
    Learned,
    Learner,
    Run,
    fit_learners,
    in_order,
)
from alltrades.policies.model.normalizer import Normalizer
from alltrades.policies.settings import PolicySettings
from alltrades.system.reporting import Report


def specialist_normalizers(
    demos: Steps,
    environments: Sequence[Interface],
    settings: PolicySettings,
    actions: Normalizer,
) -> list[Normalizer]:
    """Statistics of each environment's specialist: observations of `demos`, the action scale of
    `actions`, whose environments these are.
    """
    out = []
    for k, own in enumerate(make_normalizers(demos, environments, settings)):
        for name in ("action_mean", "action_scale", "action_low", "action_high"):
            mine = getattr(own, name)
            mine[0] = cut(getattr(actions, name)[k], mine.shape[1])
        out.append(own)
    return out


@dataclass(frozen=True)
class Task:
    """One environment's specialist to be.

    Attributes:
        seed: of its weights, batches and noise.
        name: under which its metrics are recorded.
    """

    environment: Interface
    seed: int
    name: str = ""


@dataclass
class Specialists:
    """Fits the specialists of many environments; equal shapes together.

    Args:
        demos: steps of all environments; they set the action scale of every specialist.
        tasks: one for every environment.
        place: where checkpoints are kept; an interrupted fit is continued.
        report: gets the steps done, counted over all networks, and the metrics of the specialists
            that are kept.
        run: trains stacks of specialists, such as beside one another; default in their order.
    """

    demos: Steps
    tasks: Sequence[Task]
    augmentation: Augmentation = PLAIN
    place: Place = Place()
    report: Report = Report()
    run: Run = in_order
    device: str = "cpu"

    @property
    def environments(self) -> list[Interface]:
        return [task.environment for task in self.tasks]

    def fit(
        self,
        candidates: Sequence[Candidate],
        selection: str,
        folds: int,
        most: int,
        patience: int | None = None,
    ) -> tuple[list[Fit], Choice | None]:
        """One specialist per environment.

        Args:
            selection: "last" trains the first candidate for all its steps, "holdout" for as many as
                each environment's held-out episodes prefer; "cv" trains the candidate and number of
                steps that `cross_validate` chooses, the first one for all its steps where there is
                nothing to choose by.
            folds, most, patience: see `cross_validate`.
        """
        candidate, choice = candidates[0], None
        longest = max(c.train.steps for c in candidates) if selection == "cv" else 0
        choosing, training = self.report.parts(
            [0, (longest or candidate.train.steps) * len(self.tasks)]
        )
        stops = [candidate.train.steps] * len(self.tasks)
        losses: list[float | None] = [None] * len(self.tasks)
        if selection == "cv":
            choice = self.cross_validate(candidates, folds, most, patience, choosing)
            if choice is not None:
                candidate, stops = candidates[choice.candidate], [choice.steps] * len(self.tasks)
                at = choice.candidate, choice.looks.index(choice.steps)
                losses = [
                    float(choice.losses[e.id][at]) if e.id in choice.losses else None
                    for e in self.environments
                ]
        elif selection == "holdout":
            stops, losses = self.holdout(candidate, choosing)
        learned = self.last(candidate, stops, training)
        return [
            Fit(x.policy, stop, loss, x.course) for x, stop, loss in zip(learned, stops, losses)
        ], choice

    # ---- the three selections --------------------------------------------------------------------
    def last(
        self,
        candidate: Candidate,
        stops: Sequence[int] | None = None,
        report: Report | None = None,
    ) -> list[Learned]:
        """One policy per environment from all its demonstrations, after `stops` steps or all."""
        learners = [
            self._learner(task, candidate, n, stop=None if stops is None else stops[k])
            for k, (task, n) in enumerate(zip(self.tasks, self._normalizers(self.demos, candidate)))
        ]
        return self._fit(learners, "training", report or self.report)

    def holdout(
        self, candidate: Candidate, report: Report | None = None
    ) -> tuple[list[int], list[float | None]]:
        """For each environment the number of steps with the lowest loss on held-out episodes, and
        that loss.

        A fifth of its episodes are held out; all steps and None where there are fewer than 3.
        """
        quiet = (report or self.report).unrecorded()
        held = [hold_out(self._of(task), task.seed) for task in self.tasks]
        able = [k for k, x in enumerate(held) if x.any()]
        normalizers = self._normalizers(self.demos, candidate)
        learners = [self._learner(self.tasks[k], candidate, normalizers[k], held[k]) for k in able]
        curves = {k: x.curve for k, x in zip(able, self._fit(learners, "holdout", quiet))}
        best = [
            min((v, s) for s, v in curves[k].items())
            if k in curves
            else (None, candidate.train.steps)
            for k in range(len(self.tasks))
        ]
        return [s for _, s in best], [v for v, _ in best]

    def cross_validate(
        self,
        candidates: Sequence[Candidate],
        folds: int,
        most: int,
        patience: int | None = None,
        report: Report | None = None,
    ) -> Choice | None:
        """The choice shared by all environments; None where every environment has one
        demonstration.

        Args:
            folds: groups of episodes, each held out once.
            most: environments that take part, evenly spread over those with two demonstrations or
                more.
            patience: looks at its held-out loss without a new lowest after which a candidate is
                trained no further.
        """
        fold = fold_of_episode(self.demos, folds, self.tasks[0].seed)
        able = [
            k
            for k, environment in enumerate(self.environments)
            if (fold[self.demos.numbers(environment.id)] >= 0).any()
        ]
        able = [
            able[i]
            for i in np.unique(
                np.linspace(0, len(able) - 1, min(most, len(able))).round().astype(int)
            ).tolist()
        ]
        learners: list[Learner] = []
        owner: list[tuple[int, int]] = []  # (candidate, environment)
        for c, candidate in enumerate(candidates):
            for f in range(folds):
                normalizers = self._normalizers(self.demos.select(fold != f), candidate)
                for k in able:
                    held = fold[self.demos.numbers(self.environments[k].id)] == f
                    if held.any():
                        learners.append(
                            self._learner(self.tasks[k], candidate, normalizers[k], held, group=c)
                        )
                        owner.append((c, k))
        if not learners:
            return None
        quiet = (report or self.report).unrecorded()
        curves: dict[tuple[int, int], list[dict[int, float]]] = {}
        for key, learned in zip(owner, self._fit(learners, "folds", quiet, patience, True)):
            curves.setdefault(key, []).append(learned.curve)
        looks = sorted({look for parts in curves.values() for x in parts for look in x})
        losses = {
            self.environments[k].id: np.array(
                [
                    np.mean([[x.get(look, np.inf) for look in looks] for x in curves[c, k]], axis=0)
                    for c in range(len(candidates))
                ]
            )
            for k in able
        }
        return choose(losses, looks)

    # ---- helpers ---------------------------------------------------------------------------------
    def _of(self, task: Task) -> Steps:
        return self.demos.choose(self.demos.numbers(task.environment.id))

    def _normalizers(self, demos: Steps, candidate: Candidate) -> list[Normalizer]:
        return specialist_normalizers(
            demos,
            self.environments,
            candidate.policy,
            make_normalizer(self.demos, self.environments, candidate.policy),
        )

    def _learner(
        self,
        task: Task,
        candidate: Candidate,
        normalizer: Normalizer,
        held: np.ndarray | None = None,
        *,
        stop: int | None = None,
        group: int = 0,
    ) -> Learner:
        own = self._of(task)
        return Learner(
            task.environment,
            own if held is None else own.select(~held),
            normalizer,
            candidate,
            task.seed,
            held=None if held is None else own.select(held),
            stop=stop,
            group=group,
            name=task.name,
        )

    def _fit(
        self,
        learners: Sequence[Learner],
        name: str,
        report: Report,
        patience: int | None = None,
        lose: bool = False,
    ) -> list[Learned]:
        return fit_learners(
            learners,
            augmentation=self.augmentation,
            patience=patience,
            lose=lose,
            place=self.place.within(name),
            report=report,
            run=self.run,
            device=self.device,
        )
