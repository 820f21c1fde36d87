"""The stage that measures a policy under perturbations of what it sees, on common starts with the
unperturbed row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from alltrades.envs.perturbations import perturbed
from alltrades.envs.rollouts.differences import paired_difference
from alltrades.envs.rollouts.evaluation import Evaluation, agreed, measures
from alltrades.envs.rollouts.seeding import episode_seed, evaluation_seeds
from alltrades.envs.rollouts.verdicts import corrected
from alltrades.envs.spec import EnvSpec
from alltrades.pipeline.acting import Policies
from alltrades.pipeline.artifacts import policy_digests, success_uses
from alltrades.pipeline.context import Context
from alltrades.pipeline.measurement import Manner, conditions, success
from alltrades.report.perturbations import UNPERTURBED
from alltrades.system.files import write_json
from alltrades.system.reading import read_mapping
from alltrades.system.reporting import Report

Perturbed = dict[str, Any]  # see `measure_perturbed`


@dataclass(frozen=True)
class Trials:
    """What is measured.

    Attributes:
        names: perturbations. episodes: of each environment under each of them, at most.
        own: on starts that nothing else uses, in place of the first ones of the evaluation.
    """

    names: tuple[str, ...]
    episodes: int
    own: bool = False

    def starts(self, context: Context) -> dict[str, list[int]]:
        """Seeds by environment."""
        root, count = context.settings.evaluation.seed, self.episodes
        if not self.own:
            return {s.id: evaluation_seeds(s, root, count) for s in context.simulated}
        return {
            s.id: [episode_seed(root, "diagnosis", s.id, i, s.block) for i in range(count)]
            for s in context.simulated
        }


def measure_perturbed(
    context: Context,
    name: str,
    policies: Path,
    trials: Trials,
    out: Path | None = None,
    whole: Evaluation | None = None,
) -> Perturbed:
    """A row under each perturbation, in the environments in which it changes what the row sees;
    plain data, also as JSON in `out`:

    `row`; `evaluations`, as `Evaluation.to_json` says them, of "unperturbed" and of every
    perturbation that changes something somewhere; `pairs`, the paired difference of each from the
    unperturbed one, by metric, corrected for their number; `without`, by perturbation, the
    environments in which it changes nothing that is seen.

    Args:
        whole: the row's evaluation, of which the unperturbed row is then the first episodes.
    """
    manner = Manner(context.settings.evaluation.preference)
    if whole is not None:
        most = min(trials.episodes, *(r.n for r in whole.rows))
        trials = replace(trials, episodes=most)
    key = {
        "policies": policy_digests(policies),
        "perturbations": list(trials.names),
        "episodes": trials.episodes,
        "own starts": trials.own,
        "instructions": context.settings.evaluation.instructions,
        **conditions(context, manner),
    }
    found: list[Perturbed] = []

    def body(report: Report) -> None:
        acting = manner.load(policies, context)
        found.append(_measured(context, name, acting, policies, trials, report, whole))
        if out is not None:
            write_json(out, found[0])

    total = trials.episodes * len(context.simulated) * len(trials.names)
    outputs = [out] if out is not None else []
    context.stage(f"perturbations/{name}", key, outputs, body, total, "episode")
    if out is None:
        return found[0]
    return read_mapping(out, "a table of perturbations that a run wrote", "delete it")


def _measured(
    context: Context,
    name: str,
    policies: Policies,
    path: Path,
    trials: Trials,
    report: Report,
    whole: Evaluation | None,
) -> Perturbed:
    worlds = worlds_of(context, policies, trials.names)
    without = {
        kind: [s.id for s in context.simulated if s.id not in {x.id for x in specs}]
        for kind, specs in worlds.items()
    }
    worlds = {kind: specs for kind, specs in worlds.items() if specs}
    if whole is None and worlds:
        worlds = {UNPERTURBED: context.tested} | worlds
    starts, uses = trials.starts(context), success_uses(path)
    parts = report.parts([trials.episodes * len(specs) for specs in worlds.values()])
    rows = {} if whole is None else {UNPERTURBED: first(whole, trials.episodes)}
    for part, (kind, specs) in zip(parts, worlds.items()):
        seeds = {s.id: starts[s.id] for s in specs}
        there = replace(context, specs=specs)
        rows[kind] = success(there, kind, policies, part, success_uses=uses, seeds=seeds)
    return {
        "row": name,
        "evaluations": {kind: e.to_json() for kind, e in rows.items()},
        "pairs": _pairs(rows),
        "without": without,
    }


def worlds_of(
    context: Context, policies: Policies, names: Sequence[str]
) -> dict[str, tuple[EnvSpec, ...]]:
    """By perturbation, the environments under it in which it changes what their policy sees."""
    out = {}
    for name in names:
        found = [
            perturbed(spec, name, _seen(policies, spec.id))
            for spec in context.tested
            if spec.id in policies
        ]
        out[name] = tuple(spec for spec in found if spec is not None)
    return out


def _seen(policies: Policies, environment: str) -> set[str]:
    policy = policies[environment]
    return set(policy.environments[policy.environment_index(environment)].observation)


def looks(policies: Policies) -> bool:
    """Whether a policy sees pictures in some environment."""
    return any(
        f.kind == "image"
        for name, policy in policies.items()
        for f in policy.environments[policy.environment_index(name)].observation.values()
    )


def first(evaluation: Evaluation, episodes: int) -> Evaluation:
    """Its first episodes of each environment."""

    def cut(values: Any) -> Any:
        return values[:episodes] if isinstance(values, tuple) else values

    rows = []
    for row in evaluation.rows:
        facts = {name: cut(value) for name, value in vars(row).items()}
        facts["metrics"] = {name: cut(value) for name, value in row.metrics.items()}
        rows.append(replace(row, **facts))
    return replace(evaluation, name=UNPERTURBED, rows=tuple(rows))


def _pairs(rows: Mapping[str, Evaluation]) -> list[dict[str, Any]]:
    """Each row minus the unperturbed one, in the environments that it has."""
    out: list[dict[str, Any]] = []
    same = agreed(rows)
    for metric, ids in measures(same.values()).items():
        own = {kind: e.only(ids) for kind, e in same.items()}
        base = own.pop(UNPERTURBED)
        own = {kind: e for kind, e in own.items() if e.rows}
        every = [
            paired_difference(e, base.only([r.environment for r in e.rows]), metric=metric)
            for e in own.values()
        ]
        for kind, pair in zip(own, corrected(every)):
            out.append({"a": kind, "b": UNPERTURBED, "metric": metric, **pair.to_json()})
    return out
