"""The stage of a generalist: rows of demonstrations and rollouts, labelled by teachers, and the
network that learns from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alltrades.data.episode import UNKNOWN
from alltrades.data.steps import Steps
from alltrades.data.weights.estimate import WeightResult
from alltrades.envs.rollouts.evaluation import CHOOSES, CONDITIONS, ENDS, FILTERS
from alltrades.pipeline.acting import Policies, load_policies
from alltrades.pipeline.artifacts import artifact_files, policy_digest, policy_digests, said_uses
from alltrades.pipeline.demonstrations import Demonstrations
from alltrades.pipeline.logs import digests_of
from alltrades.pipeline.rollouts import Teacher, digest_of_first, rollouts_and_logs
from alltrades.pipeline.visits import taught
from alltrades.pipeline.weights_folder import check_weights, load_weights
from alltrades.policies.learning.batches import TrainingData
from alltrades.policies.learning.checkpoints import Place
from alltrades.policies.learning.distillation import (
    RECORDED,
    Stage2,
    Targets,
    add_visits,
    excess_loss,
    label_rows,
    score_loss,
    stage2_rows,
)
from alltrades.policies.learning.health import settings_called
from alltrades.policies.learning.initial import build_policy, make_normalizer
from alltrades.policies.learning.objectives import make_objective
from alltrades.policies.learning.teachers import Teachers
from alltrades.policies.learning.telling import Telling, eyes_of, finished, seen_by_eyes
from alltrades.policies.learning.training import Goal, Loss, Trainer
from alltrades.policies.model.loading import load_policy
from alltrades.policies.model.policy import DiffusionPolicy
from alltrades.policies.settings import TrainSettings
from alltrades.settings.distill import DistillSettings
from alltrades.settings.rows import GENERALIST
from alltrades.system.reporting import Report


@dataclass(frozen=True)
class Sources:
    """What a generalist learns from.

    Attributes:
        weights: folder of the weights of these demonstrations and rollouts.
        initial: artifact whose weights training goes on from; None for fresh ones.
    """

    demos: Demonstrations
    teachers: tuple[Teacher, ...]
    weights: Path
    initial: Path | None = None

    @property
    def stores(self) -> list[Path]:
        return [teacher.rollouts for teacher in self.teachers]

    def policies(self) -> dict[str, Policies]:
        context = self.demos.context
        return {
            t.name: load_policies(t.policies, context.specs, context.settings.device)
            for t in self.teachers
        }

    def check_policies(self) -> None:
        """UserError where a policy is missing, or cannot act in the environments."""
        self.policies()
        if self.initial is not None:
            policy_digest(self.initial)

    def check_weights(self, settings: DistillSettings) -> None:
        """UserError where the weights are those of other rows or settings."""
        rollouts = self.unpaired(settings)
        check_weights(self.weights, self.demos.steps(), rollouts, settings.weighing)

    def unpaired(self, settings: DistillSettings) -> Steps:
        """Rollouts and logs that a generalist of these settings learns of; what its teachers do not
        see is there of those that were drawn.
        """
        demos, pictures = self.demos, {t.rollouts: t.pictures for t in self.teachers}
        return rollouts_and_logs(demos.context, self.stores, settings, demos.stores, pictures)

    def key(self, settings: DistillSettings) -> dict[str, Any]:
        """What depends on them, and on as many rollouts as a generalist of these settings has."""
        context = self.demos.context
        return self.demos.key() | {
            "rollouts": {
                t.name: digest_of_first(context, t.rollouts, settings.rollouts)
                for t in self.teachers
            },
            "teachers": {t.name: policy_digests(t.policies) for t in self.teachers},
            "initial": policy_digest(self.initial) if self.initial is not None else None,
            **({"logs": digests_of(settings, context.stores)} if settings.logs else {}),
        }


@dataclass(frozen=True)
class Visit:
    """Episodes of a round; by environment the kind of teacher ("self" for their own success) and
    its index.

    chosen: whether the teachers were chosen by what became of episodes.
    """

    path: Path
    teachers: dict[str, str]
    teacher_of_environment: dict[str, int]
    chosen: bool = False


def train_generalist(
    sources: Sources,
    settings: DistillSettings,
    name: str,
    out: Path,
    *,
    visits: Sequence[Visit] = (),
    seed_of: str | None = None,
) -> None:
    """Stage 2: train a generalist into the artifact `out`, in a round with what was visited since.

    Args:
        name: of the generalist; its stage and its seed are named after it.
        seed_of: generalist whose seed is used in place of its own.
    """
    context, stage = sources.demos.context, f"distill/{name}"
    of = (seed_of or name).partition("_round")[0]
    called = ("distill" if of == GENERALIST else f"generalists.{of}") + ".rounds" * bool(visits)
    training = context.settings.training.of(settings.rounds.train if visits else settings.train)

    def train(report: Report) -> None:
        with settings_called(f"{called}.train"):
            rows, policy, course = fit(
                sources,
                settings,
                training,
                context.seed(f"distill/{seed_of or name}"),
                visits,
                context.place(stage),
                report,
            )
        policy.save(
            out,
            {
                "steps": training.steps,
                "losses": list(course),
                "seed": context.seed(f"distill/{seed_of or name}"),
                "teachers": [t.name for t in sources.teachers],
                "weights": settings.weights.kind,
                "rounds": len(visits),
                **sources.demos.held_out_facts(),
                **said_uses(uses_of(sources, settings, visits)),
            },
        )

    key = sources.key(settings) | {
        "distill": settings.model_dump(mode="json", exclude={"rounds", "train", "logs"}),
        "train": training.determining(),
    }
    if visits:
        key |= {
            "share": settings.rounds.share,
            "teachers of visits": [v.teacher_of_environment for v in visits],
            "visits": [context.stores.open(v.path).digest() for v in visits],
        }
    context.stage(stage, key, artifact_files(out), train, training.steps, "step")


def fit(
    sources: Sources,
    settings: DistillSettings,
    training: TrainSettings,
    seed: int,
    visits: Sequence[Visit],
    place: Place,
    report: Report,
) -> tuple[Stage2, DiffusionPolicy, tuple[float, ...]]:
    """The rows that a generalist learns from, the generalist, and its training loss in each quarter
    of its steps.
    """
    context, demos, teachers = sources.demos.context, sources.demos.steps(), sources.policies()
    run = context.settings
    rows = rows_of(sources, settings, demos, teachers)
    if visits:
        visited = [
            (
                context.images.of(taught(context.stores.open(v.path), context.ids, context.blind)),
                v.teacher_of_environment,
            )
            for v in visits
        ]
        rows = add_visits(rows, visited, settings.rounds.share)
    rows = label_rows(
        rows, teachers, steps=settings.label_steps, seed=seed, executor=context.executor
    )
    if sources.initial is not None:
        policy = load_policy(sources.initial, run.device).train()
    else:
        network = run.policy_of(settings)
        normalizer = make_normalizer(demos, context.interfaces, network)
        policy = build_policy(network, context.interfaces, normalizer, seed, run.device)
    score = settings.targets == "score"
    asked: Teachers = teachers if score or settings.objective.excess else {}
    reader = None
    if settings.privileged:
        reader = eyes_of(run.policy_of(settings), "distill.privileged", run.device)
        asked = seen_by_eyes(reader)
    augmentation = context.augmentation.symmetric(training.symmetry)
    data = TrainingData(rows, policy, augmentation, place.work, teachers=asked)
    loss: Loss | None = None
    if settings.objective.excess:
        loss = excess_loss(rows, teachers, data, policy, seed, score=score)
    elif score:
        loss = score_loss(rows, teachers, policy)
    elif reader is not None:
        loss = Telling(policy, reader, settings.privileged, training.observation_noise)
    objective = make_objective(settings.objective, context.ids, settings.preference)
    trainer = Trainer(policy, data, training, seed, Goal(objective, loss))
    trainer.fit(place, report)
    finished(policy)
    return rows, policy, trainer.course()


def rows_of(
    sources: Sources,
    settings: DistillSettings,
    demos: Steps,
    teachers: Iterable[str],
) -> Stage2:
    """Rows of stage 2 before their teachers, here by name, draw chunks."""
    context = sources.demos.context
    weights: Mapping[str, WeightResult] = load_weights(sources.weights, context.ids)
    return stage2_rows(
        demos,
        sources.unpaired(settings),
        weights,
        list(teachers),
        Targets(
            settings.executed,
            settings.reuse_labels,
            settings.demo_share,
            settings.apply,
            told=settings.weights.top if settings.conditioned else None,
        ),
    )


def uses_of(sources: Sources, settings: DistillSettings, visits: Sequence[Visit]) -> frozenset[str]:
    """How the simulator's success signal reaches training: only where an episode that is learned
    from says it.
    """
    context = sources.demos.context
    rollouts = sources.unpaired(settings)
    uses = set()
    if rollouts.tells_success:
        learned = CONDITIONS if settings.conditioned else FILTERS
        uses |= {ENDS, learned} if settings.weights.filtered else {ENDS}
    for v in visits:
        steps = context.stores.open(v.path).steps(context.ids)
        told = {str(e) for e in steps.environment[steps.first_success != UNKNOWN]}
        if told:
            uses.add(ENDS)
        if any(v.teacher_of_environment[e] == RECORDED for e in told):
            uses.add(CONDITIONS if settings.conditioned else FILTERS)
        if told and v.chosen:
            uses.add(CHOOSES)
    return frozenset(uses)
