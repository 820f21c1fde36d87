"""The Pareto front between the environments of a finished run: generalists of many preferences, or
one that takes them.

A front is made in the run's folder and reuses its demonstrations, specialists, rollouts, weights
and seeds; rounds are left out. Its networks and evaluations are stages of the run's manifest whose
names hold pareto/, so that it is continued after a kill, and none is made twice.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from math import comb
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from alltrades.envs.rollouts.evaluation import Evaluation
from alltrades.errors import UserError
from alltrades.pipeline.pipeline import AVERAGES, Pipeline
from alltrades.pipeline.rundir import RunDir
from alltrades.policies.learning.objectives import ObjectiveSettings
from alltrades.policies.settings import Frozen
from alltrades.settings.rows import GENERALIST, Row
from alltrades.settings.run import RunSettings
from alltrades.studies.hypervolume import lattice
from alltrades.system.files import remove
from alltrades.system.tracking import Tracker

FrontKind = Literal["linear", "tchebycheff", "worst", "conditioned"]
MOST = 64  # preferences
Measured = dict[
    tuple[str, str], list[Evaluation]
]  # (front, method) -> one evaluation per preference


class ParetoSettings(Frozen):
    """Which fronts are made of a run."""

    fronts: tuple[FrontKind, ...] = Field(
        ("linear",),
        min_length=1,
        description="one generalist per preference under an objective, or one that takes all of "
        "them",
    )
    divisions: int = Field(
        8, ge=1, description="preferences are the multiples of 1/divisions that sum to 1"
    )
    preferences: tuple[tuple[float, ...], ...] = Field(
        (), description="preferences in place of those, a number per environment"
    )
    row: str = Field(
        GENERALIST, description="generalist of the run whose settings and weights are used"
    )
    labeled_only: tuple[Literal["last", "holdout"], ...] = Field(
        ("last",),
        description="labeled-only fronts: after all steps, after those that held-out "
        "demonstrations prefer",
    )
    mu: float = Field(0.1, gt=0, description="smoothing of tchebycheff, as distill.objective.mu")
    ema: float = Field(
        0.99, ge=0, lt=1, description="averaging of tchebycheff and worst, as distill.objective.ema"
    )

    def objective(self, front: FrontKind) -> ObjectiveSettings:
        return ObjectiveSettings(
            kind="linear" if front == "conditioned" else front, mu=self.mu, ema=self.ema
        )

    def vectors(self, environments: Sequence[str]) -> np.ndarray:
        """Preferences (P, K), each summing to 1; raises UserError for too many, and for what is no
        preference.
        """
        count = len(environments)
        if count < 2:
            raise UserError(
                f"the run has the environment {', '.join(environments)} alone; a front needs at "
                "least two"
            )
        if not self.preferences:
            points = comb(self.divisions + count - 1, count - 1)
            if points > MOST:
                raise UserError(
                    f"divisions = {self.divisions} of {count} environments are {points} "
                    "preferences; expected at "
                    f"most {MOST}; lower divisions or name preferences"
                )
            return lattice(count, self.divisions)
        for given in self.preferences:
            if len(given) != count or min(given) < 0 or sum(given) <= 0:
                raise UserError(
                    f"preference {list(given)}; expected {count} numbers >= 0, not all 0, for "
                    f"{', '.join(environments)}"
                )
        values = np.array(self.preferences, dtype=float)
        return values / values.sum(axis=1, keepdims=True)


class _Front(Pipeline):
    """A run's pipeline whose stages are those of a front; their metrics stay out of the run's
    report.
    """

    def log(self, stage: str) -> Any:
        return None

    def with_settings(self, **update: Any) -> _Front:
        other = copy.copy(self)
        other.s = self.s.model_copy(update=update)
        return other

    def train(
        self,
        front: FrontKind,
        method: str,
        pareto: ParetoSettings,
        place: str,
        preference: Mapping[str, float] | None,
    ) -> None:
        """Make the network of one place of a front, unless it is there."""
        base = self.s.distillations()[pareto.row]
        if method == GENERALIST:
            settings = base.model_copy(
                update={"objective": pareto.objective(front), "preference": dict(preference or {})}
            )
            self.train_generalist(pareto.row, settings, place, seed_of=pareto.row)
        else:
            self.train_labeled_only(Row(method), place, preference, pareto.objective(front))

    def measure(self, pareto: ParetoSettings, front: FrontKind, method: str) -> list[Evaluation]:
        """Success at every preference, in the order of `pareto.vectors`."""
        policy = self.s.policy
        takes = front == "conditioned"
        pipeline = (
            self
            if policy.preference_input == takes
            else self.with_settings(policy=policy.model_copy(update={"preference_input": takes}))
        )
        preferences = [
            dict(zip(self.ids, map(float, vector))) for vector in pareto.vectors(self.ids)
        ]
        places = [
            f"pareto/{front}/{'_'.join(f'{v:.4g}' for v in p.values())}/{method}"
            for p in preferences
        ]
        if not takes:
            self.beside.run(
                [
                    partial(pipeline.train, front, method, pareto, place, preference)
                    for place, preference in dict(zip(places, preferences)).items()
                ]
            )
            return [pipeline.evaluate(place) for place in places]
        own = self.policy_path(pareto.row if method == GENERALIST else method)
        if not (
            policy.preference_input and own.exists()
        ):  # else the run's own network takes preferences
            place = f"pareto/{front}/{method}"
            self.beside.run([partial(pipeline.train, front, method, pareto, place, None)])
            own = self.policy_path(place)
        return [
            pipeline.evaluate(place, own, preference)
            for place, preference in zip(places, preferences)
        ]


def measure_fronts(
    settings: RunSettings, folder: Path, pareto: ParetoSettings
) -> tuple[list[str], Measured]:
    """Train or query all fronts of a finished run; returns environment ids and one evaluation per
    preference.

    Raises UserError where the folder holds no finished run with these settings or no row of that
    name.
    """
    if pareto.row not in settings.distillations():
        raise UserError(
            f"the run has no generalist '{pareto.row}'; expected one of "
            f"{', '.join(settings.distillations())}"
        )
    noise = max(
        settings.distillations()[pareto.row].train.observation_noise,
        settings.labeled_only.observation_noise,
    )
    if noise > 0 and any(pareto.objective(f).excess for f in pareto.fronts):
        raise UserError(
            f"the run trains with observation_noise = {noise}, and excess losses compare with "
            "teachers at the "
            "observation itself; expected fronts linear or conditioned"
        )
    with RunDir(folder, seed=settings.seed) as rundir:
        pipeline = _Front(settings, rundir, Tracker(folder, "disabled"))
        pareto.vectors(pipeline.ids)
        needed = [
            f"weigh/{pareto.row}",
            *(f"rollouts/{k}" for k in settings.distillations()[pareto.row].teachers),
        ]
        if any(pareto.objective(f).excess for f in pareto.fronts) and pareto.labeled_only:
            needed.append("specialists/scratch")
        for stage in needed:
            if stage not in rundir.manifest.stages:
                raise UserError(
                    f"{folder}: the run has not finished its stage {stage}; end it with "
                    "`alltrades run` first"
                )
        methods = [GENERALIST]
        for kind in sorted(
            pareto.labeled_only, reverse=True
        ):  # the held-out form takes averages of the other one
            methods.append("labeled_only" if kind == "last" else "labeled_only_holdout")
        with pipeline.crew:
            found: Measured = {
                (front, method): pipeline.measure(pareto, front, method)
                for front in pareto.fronts
                for method in methods
            }
        remove(pipeline.work(AVERAGES))
        return pipeline.ids, found
