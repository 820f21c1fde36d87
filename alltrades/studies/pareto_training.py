"""The Pareto front between the environments of a finished run: generalists of many preferences, or
one that takes them.

A front is made in the run's folder and reuses its demonstrations, specialists, rollouts, weights
and seeds; rounds are left out. Its networks and evaluations are stages of the run's manifest whose
names hold pareto/, so that it is continued after a kill, and none is made twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import comb
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from alltrades.envs.rollouts.evaluation import RETURN, Evaluation, agreed, measures
from alltrades.envs.rollouts.evaluation_files import read_evaluation
from alltrades.errors import UserError
from alltrades.pipeline.changes import in_short
from alltrades.pipeline.context import Context, opened
from alltrades.pipeline.demonstrations import Demonstrations
from alltrades.pipeline.folder import RunFolder
from alltrades.pipeline.generalist import train_generalist
from alltrades.pipeline.labeled_only import Aim, Averages, train_labeled_only
from alltrades.pipeline.measurement import Manner, measure
from alltrades.pipeline.rundir import RunDir
from alltrades.pipeline.runner import sources
from alltrades.policies.learning.objectives import ObjectiveSettings
from alltrades.policies.settings import Frozen
from alltrades.settings.rows import GENERALIST, Row
from alltrades.settings.run import RunSettings
from alltrades.studies.pareto_points import lattice

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
                    f"preferences; expected at most {MOST}; lower divisions or name preferences"
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


@dataclass(frozen=True)
class _Fronts:
    """Trainings and measurements of fronts in a run's folder; their metrics stay out of the run's
    report.
    """

    context: Context
    folder: RunFolder
    pareto: ParetoSettings

    def measure(self, front: FrontKind, method: Row) -> list[Evaluation]:
        """Success at every preference, in the order of `ParetoSettings.vectors`."""
        policy, ids = self.context.settings.policy, self.context.ids
        takes = front == "conditioned"
        preferences = [dict(zip(ids, map(float, vector))) for vector in self.pareto.vectors(ids)]
        names = [
            f"pareto/{front}/{'_'.join(f'{v:.4g}' for v in p.values())}/{_kind(method)}"
            for p in preferences
        ]
        with_input = policy.model_copy(update={"preference_input": takes})
        settings = self.context.settings.model_copy(update={"policy": with_input})
        context = replace(self.context, settings=settings)
        if not takes:
            self.context.beside.run(
                [
                    partial(self._train, context, front, method, name, preference)
                    for name, preference in dict(zip(names, preferences)).items()
                ]
            )
            return [
                measure(context, name, self.folder.artifact(name), self.folder.evaluation(name))
                for name in names
            ]
        own = self.folder.policy(method)
        if not (policy.preference_input and own.exists()):
            # else the run's own network takes preferences
            name = f"pareto/{front}/{_kind(method)}"
            self.context.beside.run([partial(self._train, context, front, method, name, {})])
            own = self.folder.artifact(name)
        return [
            measure(context, name, own, self.folder.evaluation(name), Manner(preference))
            for name, preference in zip(names, preferences)
        ]

    def _train(
        self,
        context: Context,
        front: FrontKind,
        method: Row,
        name: str,
        preference: Mapping[str, float],
    ) -> None:
        """Make the network of one place of a front, unless it is there."""
        demos, objective = Demonstrations(context, self.folder.demos), self.pareto.objective(front)
        out = self.folder.artifact(name)
        if method.labeled_only:
            reference = self.folder.policy(Row("scratch")) if objective.excess else None
            aim = Aim(objective, preference, reference)
            train_labeled_only(demos, method, out, name=name, aim=aim, averages=Averages(context))
            return
        base = context.settings.distillations()[str(method)]
        settings = base.model_copy(update={"objective": objective, "preference": dict(preference)})
        given = sources(demos, self.folder, method)
        train_generalist(given, settings, name, out, seed_of=str(method))


def _kind(method: Row) -> str:
    return str(method) if method.labeled_only else GENERALIST


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
            "teachers at the observation itself; expected fronts linear or conditioned"
        )
    with RunDir(folder, seed=settings.seed) as rundir, opened(settings, rundir.manifest) as context:
        if context.recorded:
            raise UserError(
                f"no simulator of {', '.join(context.recorded)}: fronts are measured by success; "
                "expected a run whose environments can be stepped; leave these out"
            )
        _check_success(folder)
        pareto.vectors(context.ids)
        needed = [
            f"weigh/{pareto.row}",
            *(f"rollouts/{k}" for k in settings.distillations()[pareto.row].teachers),
        ]
        if any(pareto.objective(f).excess for f in pareto.fronts) and pareto.labeled_only:
            needed.append("specialists/scratch")
        for stage in needed:
            if stage not in rundir.manifest.stages:
                raise UserError(
                    f"{folder}: the run has not finished its stage {stage}; end it with `alltrades "
                    "run` first"
                )
            if changes := rundir.manifest.other_code(stage):
                raise UserError(
                    f"{folder}: its stage {stage} was made with other code ({in_short(changes)}); "
                    "expected that of now; `alltrades run` makes it again, and --no-same_code "
                    "there keeps it"
                )
        methods = [Row(pareto.row)]
        for kind in sorted(
            pareto.labeled_only, reverse=True
        ):  # the held-out form takes averages of the other one
            methods.append(Row("labeled_only" if kind == "last" else "labeled_only_holdout"))
        fronts = _Fronts(context, RunFolder(folder), pareto)
        measured: Measured = {
            (front, _kind(method)): fronts.measure(front, method)
            for front in pareto.fronts
            for method in methods
        }
        Averages(context).remove()
        return context.ids, measured


def _check_success(folder: Path) -> None:
    """Raises UserError where an evaluation of the run has an environment without success."""
    found = [read_evaluation(path) for path in sorted((folder / "evaluation").glob("*.json"))]
    silent = measures(agreed({str(i): e for i, e in enumerate(found)}).values()).get(RETURN, [])
    if silent:
        raise UserError(
            f"nothing says success in {', '.join(repr(name) for name in silent[:4])}, and fronts "
            "are measured by success; expected environments that say it; declare it with "
            "--simulator.success and run again"
        )
