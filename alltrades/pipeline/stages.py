"""The stages of the method as functions of paths and settings; `pipeline.py` keys them,
`commands/stage.py` offers each alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from alltrades.data.episode import Episode
from alltrades.data.steps import Steps
from alltrades.data.store import EpisodeStore
from alltrades.data.weights.estimate import WeightResult, estimate_weights
from alltrades.envs import registry
from alltrades.envs.rollouts.evaluation import Evaluation, evaluate
from alltrades.envs.rollouts.rollout import Crew, Job, rollout
from alltrades.envs.rollouts.seeding import episode_seed, plot_seeds
from alltrades.envs.spec import EnvSpec
from alltrades.errors import MissingExtra, UserError
from alltrades.pipeline.acting import Policies, controllers_of, slug
from alltrades.pipeline.beside import Beside
from alltrades.pipeline.collection import Each, first_demos, open_or_create
from alltrades.policies.learning.batches import TrainingData
from alltrades.policies.learning.demonstrations import (
    Fit,
    build_policy,
    fit_demonstrations,
    make_normalizer,
)
from alltrades.policies.learning.distillation import (
    RECORDED,
    ScoreLoss,
    Stage2,
    add_visits,
    label_rows,
    stage2_data,
    stage2_rows,
)
from alltrades.policies.learning.excess import ExcessLoss
from alltrades.policies.learning.objectives import ObjectiveSettings, make_objective
from alltrades.policies.learning.selection import Candidate, Specialists
from alltrades.policies.learning.teachers import TeacherPredictions
from alltrades.policies.learning.training import Trainer
from alltrades.policies.model.policy import DiffusionPolicy, load_policy
from alltrades.policies.settings import TrainSettings
from alltrades.report import text
from alltrades.settings.rows import Row
from alltrades.settings.run import DistillSettings, RolloutSettings, RunSettings
from alltrades.system.files import write_json
from alltrades.system.reporting import Report
from alltrades.system.streams import stream, stream_seed


def stage_seed(seed: int, name: str) -> int:
    """Seed of one stage: independent streams for stages of one run."""
    return stream_seed(seed, "stage", name)


def resolve(settings: RunSettings) -> tuple[list[EnvSpec], dict[str, UserError]]:
    """Specifications of a run's environments, and the optional ones that are left out, with what is
    missing for them.
    """
    registry.load_plugins(settings.plugins)
    specs = registry.resolve(settings.environments)
    left_out: dict[str, UserError] = {}
    for name in settings.optional_environments:
        try:
            specs += [s for s in registry.resolve([name]) if s.id not in {x.id for x in specs}]
        except MissingExtra as error:
            left_out[name] = error
    return specs, left_out


# ---- stage 1 -------------------------------------------------------------------------------------
def train_labeled_only(
    settings: RunSettings,
    specs: Sequence[EnvSpec],
    demos: Steps,
    out: Path,
    work: Path,
    seed: int,
    selection: str = "last",
    report: Report | None = None,
    *,
    averages: Path | None = None,
    selected: Callable[[], object] | None = None,
    preference: Mapping[str, float] | None = None,
    objective: ObjectiveSettings | None = None,
    reference: Policies | None = None,
) -> None:
    """The labeled-only multi-task baseline: the generalist's network on demonstrations alone.

    Args:
        selection: with "holdout" it is stopped after as many steps as held-out demonstrations
            prefer (see `fit_demonstrations`, also for `averages` and `selected`).
        preference, objective: default linear and uniform.
        reference: specialists over whose loss an objective of excess losses is taken; nothing else
            is learned from them.
    """
    make_loss = None
    if objective is not None and objective.excess:
        assert reference is not None
        teachers = [reference]

        def make_loss(data: TrainingData, policy: DiffusionPolicy) -> ExcessLoss:
            kind = np.zeros(len(data.environment), dtype=np.int64)
            predictions = TeacherPredictions(
                kind, teachers, policy, "excess losses", "objective: linear"
            )
            return ExcessLoss(predictions, data, policy, seed)

    infos = [s.interface for s in specs]
    normalizer = make_normalizer(demos, infos, settings.policy)
    fit = fit_demonstrations(
        demos,
        infos,
        normalizer,
        settings.policy,
        settings.training.of(settings.labeled_only),
        seed,
        hold_end=settings.demos.hold_end,
        selection=selection,
        symmetries={s.id: s.symmetries for s in specs},
        objective=make_objective(
            objective or ObjectiveSettings(), [s.id for s in specs], preference
        ),
        loss=make_loss,
        folder=work,
        averages=averages,
        selected=selected,
        report=report,
        device=settings.device,
    )
    fit.policy.save(
        out,
        {
            "steps": fit.steps,
            "seed": seed,
            "held_out_loss": fit.held_out,
            "used_success_signal": False,
        },
    )


def train_specialists(
    settings: RunSettings,
    row: Row,
    specs: Sequence[EnvSpec],
    demos: Steps,
    labeled_only: Path | None,
    out: Path,
    work: Path,
    report: Report | None = None,
    beside: Beside | None = None,
) -> str | None:
    """Specialists of all environments: "scratch" on their own demonstrations, "joint_init"
    fine-tuned from labeled-only.

    The action scale is that of all
    demonstrations, so that every policy of a run predicts in the same units.

    Args:
        out: folder of one artifact per environment, and of selection.json where cross-validation
            chose.
        report: gets the steps done, counted over all networks, and the metrics of each specialist
            under its name.
        beside: runs fine-tunings and stacks of specialists; default one after the other.

    Returns what cross-validation chose, in one line.
    """
    s, device, hold_end = settings.specialist, settings.device, settings.demos.hold_end
    names = [f"specialist/{row.teacher}/{slug(x.id)}" for x in specs]
    seeds = [stage_seed(settings.seed, name) for name in names]
    symmetries = {x.id: x.symmetries for x in specs}
    table, line = None, None
    report = report or Report()
    beside = Beside(1) if beside is None else beside
    if row.kind == "joint_init":
        assert labeled_only is not None
        joint = load_policy(labeled_only, device)
        selection = "holdout" if s.selection == "holdout" else "last"
        total = s.finetune.steps * (2 if selection == "holdout" else 1)
        fitted: dict[int, Fit] = {}
        reports = report.parts([total] * len(specs))

        def fine_tune(k: int) -> None:
            fitted[k] = fit_demonstrations(
                demos.select(demos.environment == specs[k].id),
                joint.environments,
                joint.normalizer,
                joint.settings,
                settings.training.of(s.finetune),
                seeds[k],
                hold_end=hold_end,
                selection=selection,
                initial=joint,
                symmetries=symmetries,
                folder=work / slug(specs[k].id),
                report=reports[k].named(names[k]),
                device=device,
            )

        beside.run([partial(fine_tune, k) for k in range(len(specs))])
        fits = [fitted[k] for k in range(len(specs))]
    else:
        candidates = [Candidate(*c) for c in settings.specialist_candidates()]
        fitter = Specialists(
            demos,
            [x.interface for x in specs],
            seeds,
            hold_end,
            symmetries,
            work,
            report,
            names,
            beside.run,
            device,
        )
        fits, choice = fitter.fit(
            candidates, s.selection, s.folds, s.selection_environments, s.patience
        )
        table = None if choice is None else choice.to_json(candidates)
        if s.selection == "cv":
            line = (
                text.selection(table)
                if table is not None
                else "no environment has two demonstrations to cross-validate "
                f"with; kept: {candidates[0].name}, all {candidates[0].train.steps:,} steps"
            )
    for spec, seed, fit in zip(specs, seeds, fits):
        facts: dict[str, Any] = {
            "steps": fit.steps,
            "seed": seed,
            "held_out_loss": fit.held_out,
            "used_success_signal": False,
        }
        if table is not None:
            facts["selection"] = {
                "chosen": table["chosen"],
                "relative_loss": table["relative_loss"],
                "losses": table["losses"].get(spec.id),
            }
        fit.policy.save(out / slug(spec.id), facts)
    if table is not None:
        write_json(out / "selection.json", table)
    return line


# ---- rollouts ------------------------------------------------------------------------------------
def rollout_store(
    policies: Policies,
    specs: Sequence[EnvSpec],
    episodes: int,
    seed: int,
    teacher: str,
    path: Path,
    rollouts: RolloutSettings,
    purpose: str = "rollout",
    crew: Crew | None = None,
    each: Each | None = None,
) -> None:
    """Roll every environment's policy out; episodes are ordered by index, then environment, and
    appended in that order.

    A store that exists is continued: episode i depends on its index only. UserError for one of
    other policies, environments, teacher or seed.
    """
    digests = {name: p.digest() for name, p in policies.items()}
    store = open_or_create(
        path, specs, {"kind": "rollouts", "teacher": teacher, "seed": seed, "policies": digests}
    )
    controllers, keys = controllers_of(policies, rollouts)
    jobs = [
        Job(s.id, episode_seed(seed, purpose, s.id, i), keys[s.id])
        for i in range(episodes)
        for s in specs
    ]
    buffer: list[Episode] = []
    for episode in rollout(
        jobs[len(store) :],
        {s.id: s for s in specs},
        controllers,
        workers=rollouts.worker_count(),
        lanes=rollouts.lanes,
        source=teacher,
        crew=crew,
    ):
        buffer.append(episode)
        if (
            len(buffer) >= 32 and sum(map(len, buffer)) >= 1024
        ):  # an append costs the same for few steps as for many
            store.append(buffer)
            buffer = []
        if each is not None:
            each(len(store) + len(buffer), len(jobs))
    store.append(buffer)


def rollout_statistics(path: Path) -> dict[str, dict[str, int]]:
    """{environment: {"n", "successes", "steps"}} of a store."""
    steps = EpisodeStore.open(path).steps()
    lengths = np.diff(np.concatenate([[0], steps.ends]))
    return {
        str(name): {
            "n": int((mine := steps.environment == name).sum()),
            "successes": int(steps.episode_success[mine].sum()),
            "steps": int(lengths[mine].sum()),
        }
        for name in np.unique(steps.environment)
    }


# ---- stage 2 -------------------------------------------------------------------------------------
def union_of_rollouts(stores: Mapping[str, Path], specs: Sequence[EnvSpec], episodes: int) -> Steps:
    """The first `episodes` rollouts per environment of every teacher."""
    return Steps.concatenate(
        [first_demos(path, [s.id for s in specs], episodes) for path in stores.values()]
    )


def weigh(
    demos: Steps, rollouts: Steps, settings: DistillSettings, seed: int, each: Each | None = None
) -> dict[str, WeightResult]:
    """Importance weights of every environment's rollouts against its demonstrations."""
    results = {}
    names = [str(x) for x in dict.fromkeys(demos.environment)]
    for k, name in enumerate(names):
        rng = stream(seed, "weights", name)
        results[name] = estimate_weights(
            demos.select(demos.environment == name),
            rollouts.select(rollouts.environment == name),
            settings.weights,
            rng,
        )
        if each is not None:
            each(k + 1, len(names))
    return results


def distill(
    settings: RunSettings,
    distillation: DistillSettings,
    specs: Sequence[EnvSpec],
    demos: Steps,
    rollouts: Steps,
    weights: Mapping[str, WeightResult],
    teachers: Mapping[str, Policies],
    initial: Path | None,
    out: Path,
    work: Path,
    seed: int,
    visits: Sequence[tuple[Steps, Mapping[str, int]]] = (),
    train: TrainSettings | None = None,
    report: Report | None = None,
) -> Stage2:
    """Train one generalist and save it; returns the rows it was trained on.

    Args:
        initial: artifact whose weights training goes on from; None for fresh ones.
        visits: episodes of earlier rounds and who labels them, per environment (see `add_visits`).
        train: in place of `distillation.train`.
    """
    train = train or settings.training.of(distillation.train)
    rows = labelled_rows(distillation, demos, rollouts, weights, teachers, seed, visits)
    infos = [s.interface for s in specs]
    if initial is not None:
        policy = load_policy(initial, settings.device).train()
    else:
        policy = build_policy(
            settings.policy,
            infos,
            make_normalizer(demos, infos, settings.policy),
            seed,
            settings.device,
        )
    data = stage2_data(
        rows,
        policy,
        settings.demos.hold_end,
        {s.id: s.symmetries for s in specs} if train.symmetry else None,
    )
    loss: Any = None
    if distillation.objective.excess:
        loss = excess_loss(rows, teachers, data, policy, seed, distillation.targets == "score")
    elif distillation.targets == "score":
        loss = ScoreLoss(rows, list(teachers.values()), policy)
    objective = make_objective(
        distillation.objective, [s.id for s in specs], distillation.preference
    )
    trainer = Trainer(policy, data, train, seed, objective, loss)
    trainer.fit(work, report)
    policy.save(
        out,
        {
            "steps": trainer.total,
            "seed": seed,
            "teachers": list(teachers),
            "weights": distillation.weights.kind,
            "rounds": len(visits),
            "used_success_signal": uses_success(distillation)
            or any(RECORDED in v.values() for _, v in visits),
        },
    )
    return rows


def excess_loss(
    rows: Stage2,
    teachers: Mapping[str, Policies],
    data: TrainingData,
    policy: DiffusionPolicy,
    seed: int,
    score: bool,
) -> ExcessLoss:
    """Excess over the teacher that labels the row; for rows with recorded actions over the one that
    acted, else the first.
    """
    source = rows.steps.source[rows.steps.episode_of_step]
    acted = np.array([list(teachers).index(s) if s in teachers else 0 for s in source])
    kind = np.where(rows.teacher >= 0, rows.teacher, acted)
    predictions = TeacherPredictions(
        kind, list(teachers.values()), policy, "excess losses", "objective: linear"
    )
    return ExcessLoss(predictions, data, policy, seed, rows.teacher >= 0 if score else None)


def labelled_rows(
    distillation: DistillSettings,
    demos: Steps,
    rollouts: Steps,
    weights: Mapping[str, WeightResult],
    teachers: Mapping[str, Policies],
    seed: int,
    visits: Sequence[tuple[Steps, Mapping[str, int]]] = (),
) -> Stage2:
    """Rows of stage 2 with the chunks that their teachers draw there."""
    rows = unlabelled_rows(distillation, demos, rollouts, weights, teachers)
    if visits:
        rows = add_visits(rows, visits, distillation.rounds.share)
    return label_rows(rows, list(teachers.values()), steps=distillation.label_steps, seed=seed)


def unlabelled_rows(
    distillation: DistillSettings,
    demos: Steps,
    rollouts: Steps,
    weights: Mapping[str, WeightResult],
    teachers: Mapping[str, Policies],
) -> Stage2:
    """Rows of stage 2 before their teachers draw chunks."""
    return stage2_rows(
        demos,
        rollouts,
        weights,
        list(teachers.values()),
        {k: i for i, k in enumerate(teachers)},
        filtered=uses_success(distillation),
        reuse_labels=distillation.reuse_labels,
        demo_share=distillation.demo_share,
        apply=distillation.apply,
    )


def uses_success(distillation: DistillSettings) -> bool:
    """Whether training sees the simulator's success signal."""
    return distillation.weights.filtered


def trajectories(
    policies: Policies,
    specs: Sequence[EnvSpec],
    episodes: int,
    seed: int,
    rollouts: RolloutSettings,
    crew: Crew | None = None,
) -> dict[str, list[list[list[float]]]]:
    """{environment: [[[x, y], ...] per episode]} of the effector, for plots, on starts that nothing
    else uses.
    """
    controllers, keys = controllers_of(policies, rollouts)
    starts = {s.id: plot_seeds(s, seed, episodes) for s in specs}
    jobs = [
        Job(s.id, starts[s.id][i], keys[s.id], points=True) for i in range(episodes) for s in specs
    ]
    found: dict[str, list[list[list[float]]]] = {s.id: [] for s in specs}
    for episode in rollout(
        jobs,
        {s.id: s for s in specs},
        controllers,
        workers=rollouts.worker_count(),
        lanes=rollouts.lanes,
        crew=crew,
    ):
        if "point" in episode.observations:
            found[episode.environment].append(
                episode.observations["point"][:, 0].astype(float).round(4).tolist()
            )
    return found


# ---- measurement ---------------------------------------------------------------------------------
def evaluate_row(
    name: str,
    policies: Policies,
    specs: Sequence[EnvSpec],
    settings: RunSettings,
    used_success_signal: bool,
    crew: Crew | None = None,
    each: Each | None = None,
    seeds: Mapping[str, Sequence[int]] | None = None,
    ensemble: float | None = None,
) -> Evaluation:
    """Success of a row on the common evaluation starts, or on the starts given for each
    environment.
    """
    controllers, keys = controllers_of(policies, settings.rollout, ensemble)
    return evaluate(
        name,
        controllers,
        {s.id: s for s in specs},
        keys,
        settings.evaluation.episodes,
        settings.evaluation.seed,
        workers=settings.rollout.worker_count(),
        lanes=settings.rollout.lanes,
        used_success_signal=used_success_signal,
        digests={x.id: policies[x.id].digest() for x in specs},
        crew=crew,
        progress=each,
        seeds=seeds,
    )
