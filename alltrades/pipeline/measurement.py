"""Stages that measure: success on the common starts, and a few trajectories to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from alltrades.envs.rollouts.evaluation import Actors, Evaluation, evaluate
from alltrades.envs.rollouts.evaluation_files import read_evaluation, write_evaluation
from alltrades.envs.rollouts.faults import Faults
from alltrades.envs.rollouts.rollout import Job, rollout
from alltrades.envs.rollouts.seeding import (
    check_disjoint,
    evaluation_seeds,
    evaluation_starts,
    plot_seeds,
    selection_seeds,
)
from alltrades.envs.spec import EnvSpec
from alltrades.pipeline.acting import Policies, controllers_of, load_policies
from alltrades.pipeline.artifacts import policy_digests, success_uses
from alltrades.pipeline.context import Context
from alltrades.policies.acting import Unknown
from alltrades.system.files import write_json
from alltrades.system.reporting import Report

DRAWN = 4  # episodes per environment and row in the report's trajectory plots
Paths = dict[str, list[list[list[float]]]]  # {environment: [[[x, y], ...] per episode]}


@dataclass(frozen=True)
class Manner:
    """How policies act, where a measurement asks for more than their training.

    Attributes:
        preference: what policies that take one act by.
        strict: whether policies that take none are refused, with UserError, or act without it.
        n_action_steps: actions of a chunk that are executed; None as in training.
        ensemble: plan at every step and average overlapping chunks (see `Ensembling`).
        unknown_instruction: what becomes of instructions that ask for something new.
    """

    preference: Mapping[str, float] = field(default_factory=dict)
    strict: bool = False
    n_action_steps: int | None = None
    ensemble: float | None = None
    unknown_instruction: Unknown | None = None

    def load(self, path: Path, context: Context) -> Policies:
        asked = self.preference if self.strict else None
        policies = load_policies(path, context.simulated, context.settings.device, asked)
        for policy in policies.values():
            if policy.takes_preference:
                policy.set_preference(self.preference)
            policy.set_n_action_steps(self.n_action_steps)
            policy.set_unknown_instruction(self.unknown_instruction)
        return policies

    def key(self) -> dict[str, Any]:
        """What it changes, for the key of a stage."""
        changes = {
            "n_action_steps": self.n_action_steps,
            "ensemble": self.ensemble,
            "unknown_instruction": self.unknown_instruction,
        }
        given = {name: value for name, value in changes.items() if value is not None}
        return {"preference": dict(self.preference)} | given


def measure(
    context: Context,
    name: str,
    policies: Path,
    out: Path | None = None,
    manner: Manner | None = None,
) -> Evaluation:
    """Success of a row on the common evaluation starts, returns where nothing says success, also as
    JSON in `out`.
    """
    settings = context.settings
    manner = manner or Manner(settings.evaluation.preference)
    key = {
        "policies": policy_digests(policies),
        "success uses": success_uses(policies),
        **conditions(context, manner),
    }
    if any(spec.told for spec in context.simulated):
        key["instructions"] = settings.evaluation.instructions
    found: list[Evaluation] = []

    def body(report: Report) -> None:
        acting = manner.load(policies, context)
        measured = success(
            context,
            name,
            acting,
            report,
            success_uses=success_uses(policies),
            ensemble=manner.ensemble,
        )
        made = {"code": dict(context.code), "settings": conditions(context, manner)}
        found.append(replace(measured, made=made))
        if out is not None:
            write_evaluation(out, found[0])

    total = settings.evaluation.episodes * len(context.simulated)
    outputs = [out] if out is not None else []
    context.stage(f"evaluate/{name}", key, outputs, body, total, "episode")
    return read_evaluation(out) if out is not None else found[0]


def conditions(context: Context, manner: Manner) -> dict[str, Any]:
    """The settings under which policies are measured, which their results depend on."""
    settings = context.settings
    common = {"episodes": settings.evaluation.episodes, "starts": settings.evaluation.seed}
    return common | manner.key() | settings.rollout.acting()


def success(
    context: Context,
    name: str,
    policies: Policies,
    report: Report,
    *,
    success_uses: tuple[str, ...],
    seeds: Mapping[str, Sequence[int]] | None = None,
    ensemble: float | None = None,
) -> Evaluation:
    """Success of policies on the common evaluation starts, or on the starts given for each
    environment.
    """
    settings = context.settings
    specs = context.simulated if seeds is not None else context.tested
    for spec in specs:
        policies[spec.id].hear_all(spec.sentences)  # before graphs are made of the policies
    controllers, keys = controllers_of(policies, settings.rollout, ensemble)
    digests = {s.id: policies[s.id].digest() for s in specs}
    return evaluated(
        context, name, Actors(controllers, keys, digests, success_uses), specs, report, seeds
    )


def evaluated(
    context: Context,
    name: str,
    actors: Actors,
    specs: Sequence[EnvSpec],
    report: Report,
    seeds: Mapping[str, Sequence[int]] | None = None,
) -> Evaluation:
    """Success of whatever acts, on the common evaluation starts or on those given."""
    settings = context.settings
    common = settings.evaluation
    return evaluate(
        name,
        actors,
        {s.id: s for s in specs},
        seeds or evaluation_starts(specs, common.seed, common.episodes),
        lanes=settings.rollout.lanes,
        crew=context.crew,
        report=report,
        errors=settings.rollout.errors,
    )


def draw(context: Context, rows: Mapping[str, Path], out: Path) -> None:
    """Record a few trajectories of rows, given with their artifacts, for the report."""

    def body(_: Report) -> None:
        device = context.settings.device
        found = {
            row: trajectories(context, load_policies(path, context.simulated, device))
            for row, path in rows.items()
        }
        ids = [s.id for s in context.simulated]
        write_json(out, {i: {row: found[row][i] for row in rows} for i in ids})

    key = {
        "policies": {row: policy_digests(path) for row, path in rows.items()},
        "episodes": DRAWN,
        "starts": "plot",
    }
    context.unsimulated("trajectories", "not drawn")
    context.stage("trajectories", key, [out], body)


def trajectories(context: Context, policies: Policies) -> Paths:
    """Where the effector went, on starts that nothing else uses."""
    settings = context.settings.rollout
    controllers, keys = controllers_of(policies, settings)
    specs = {s.id: s for s in context.simulated}
    starts = {i: plot_seeds(s, context.settings.seed, DRAWN) for i, s in specs.items()}
    jobs = [
        Job(name, starts[name][i], keys[name], points=True) for i in range(DRAWN) for name in specs
    ]
    found: Paths = {i: [] for i in specs}
    for episode in rollout(
        jobs,
        specs,
        controllers,
        lanes=settings.lanes,
        crew=context.crew,
        faults=Faults(settings.errors, "not drawn"),
        images=(),
    ):
        if episode.points is not None:
            points = episode.points[:, 0].astype(float)
            found[episode.environment].append(points.round(4).tolist())
    return found


def check_starts(
    context: Context, stores: Mapping[str, Path], selection: int | None = None
) -> None:
    """Evaluation starts must be disjoint from every other use: episodes of these stores, selection
    (so many starts; default those of the generalists' rounds), plots.
    """
    settings, specs = context.settings, context.simulated
    judged = selection or max(
        (d.rounds.selection for d in settings.distillations().values() if d.rounds.count),
        default=0,
    )
    uses = {
        "selection": [(s.id, x) for s in specs for x in selection_seeds(s, settings.seed, judged)],
        "plots": [(s.id, x) for s in specs for x in plot_seeds(s, settings.seed, DRAWN)],
    }
    for name, path in stores.items():
        columns = context.stores.open(path).columns()
        uses[name] = [(str(e), int(x)) for e, x in zip(columns["environment"], columns["seed"])]
    uses["evaluation"] = [
        (s.id, x)
        for s in specs
        for x in evaluation_seeds(s, settings.evaluation.seed, settings.evaluation.episodes)
    ]
    check_disjoint(uses)
