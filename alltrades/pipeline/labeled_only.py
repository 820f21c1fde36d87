"""The stage of the baseline: the generalist's network on demonstrations alone."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event
from typing import Any

from alltrades.pipeline.acting import Policies, load_policies
from alltrades.pipeline.artifacts import artifact_files, policy_digests, said_uses
from alltrades.pipeline.context import Context
from alltrades.pipeline.demonstrations import Demonstrations
from alltrades.pipeline.notes import key_digest
from alltrades.policies.learning.batches import TrainingData
from alltrades.policies.learning.checkpoints import nothing
from alltrades.policies.learning.demonstrations import DemonstrationFit, GoalOf
from alltrades.policies.learning.excess import demonstration_excess
from alltrades.policies.learning.eyes import Reader
from alltrades.policies.learning.health import settings_called
from alltrades.policies.learning.initial import build_policy, make_normalizer
from alltrades.policies.learning.objectives import ObjectiveSettings, make_objective
from alltrades.policies.learning.teachers import Teachers
from alltrades.policies.learning.telling import Telling, eyes_of, finished, seen_by_eyes
from alltrades.policies.learning.training import Goal
from alltrades.policies.model.encoders.weights import determining
from alltrades.policies.model.policy import DiffusionPolicy
from alltrades.settings.rows import Row
from alltrades.system.files import remove
from alltrades.system.reporting import Report

LOOKING = ("labeled_only", "labeled_only_holdout")  # rows whose encoders began with the eyes


@dataclass(frozen=True)
class Aim:
    """What the environments' losses are put together to.

    Attributes:
        preference: weight per environment; empty for equal ones.
        reference: specialists over whose loss an objective of excess losses is taken; nothing else
            is learned from them.
    """

    objective: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    preference: Mapping[str, float] = field(default_factory=dict)
    reference: Path | None = None

    def key(self) -> dict[str, Any]:
        return {
            "preference": dict(self.preference),
            "objective": self.objective.model_dump(mode="json"),
            "reference": policy_digests(self.reference) if self.reference is not None else None,
        }


class Averages:
    """Averages of weights that trainings keep on their way, for their held-out forms."""

    def __init__(self, context: Context) -> None:
        self._folder = context.work("labeled_only_averages")

    def of(self, key: Mapping[str, Any]) -> Path:
        """Folder of all trainings with these inputs."""
        return self._folder / key_digest(key)

    def remove(self) -> None:
        remove(self._folder)


def train_labeled_only(
    demos: Demonstrations,
    row: Row,
    out: Path,
    *,
    name: str | None = None,
    aim: Aim | None = None,
    averages: Averages | None = None,
    after: Event | None = None,
) -> None:
    """Train the baseline for all its steps, or for those that held-out demonstrations prefer, into
    the artifact `out`.

    The held-out form takes its weights from the averages that the other one kept on its way, where
    they are there after `after`, and trains them otherwise.

    Args:
        row: "labeled_only", or one of its other forms.
        name: of the stage; by default the row's.
        aim: default all environments alike.
    """
    context, name = demos.context, name or str(row)
    settings, seed = context.settings, context.seed(str(replace(row, kind="labeled_only")))
    training = settings.training.of(settings.labeled_only.train)
    policy = settings.labeled_only_of(row)
    key = demos.key() | {
        "policy": determining(policy),
        "train": training.determining(),
    }
    weight = settings.labeled_only.privileged if row.kind in LOOKING else 0.0
    if weight:
        key |= {"privileged": weight}
    if aim is not None:
        key |= aim.key()
    together = aim or Aim()

    def train(report: Report) -> None:
        steps, reference = demos.steps(), _reference(context, together)
        normalizer = make_normalizer(steps, context.interfaces, policy)
        initial = build_policy(policy, context.interfaces, normalizer, seed, settings.device)
        asked: Teachers = {"reference": reference} if reference else {}
        goal = _goal(context, together, reference, seed)
        if weight:
            eyes = eyes_of(policy, "labeled_only.privileged", settings.device)
            asked = seen_by_eyes(eyes)
            goal = _telling(eyes, weight, training.observation_noise, goal)
        fitter = DemonstrationFit(
            initial,
            training,
            seed,
            context.augmentation,
            goal,
            asked,
            replace(
                context.place(name),
                averages=averages.of(context.base | key | {"training seed": seed})
                if averages and not weight
                else None,
                selected=after.wait if after is not None else nothing,
            ),
            report,
        )
        with settings_called("labeled_only"):
            fit = fitter.fit(steps, "holdout" if row.held_out else "last")
        facts: dict[str, Any] = {
            "steps": fit.steps,
            "seed": seed,
            "held_out_loss": fit.held_out,
            "losses": list(fit.course),
            **demos.held_out_facts(),
        }
        finished(fit.policy)
        fit.policy.save(out, facts | said_uses(()))

    total = training.steps * (2 if row.held_out else 1)
    context.stage(name, key, artifact_files(out), train, total, "step")


def _reference(context: Context, aim: Aim) -> Policies:
    """The specialists that an objective of excess losses compares with."""
    if not aim.objective.excess:
        return {}
    assert aim.reference is not None
    return load_policies(aim.reference, context.specs, context.settings.device)


def _telling(eyes: Reader, weight: float, noise: float, plain: GoalOf) -> GoalOf:
    """A goal by which encoders go on telling the state; each training has eyes of its own, as it
    has a copy of the policy.
    """

    def goal(data: TrainingData, policy: DiffusionPolicy) -> Goal:
        own = copy.deepcopy(eyes)
        return replace(plain(data, policy), loss=Telling(policy, own, weight, noise))

    return goal


def _goal(context: Context, aim: Aim, reference: Policies, seed: int) -> GoalOf:
    """What a training for this aim minimises."""

    def goal(data: TrainingData, policy: DiffusionPolicy) -> Goal:
        objective = make_objective(aim.objective, context.ids, aim.preference)
        if not reference:
            return Goal(objective)
        return Goal(objective, demonstration_excess(reference, data, policy, seed))

    return goal
