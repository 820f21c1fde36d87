"""Does a policy look? What each field that it sees changes, and where in pictures it looks, on
given episodes.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from alltrades.data.interface import Interface
from alltrades.data.steps import Steps
from alltrades.envs.spec import EnvSpec
from alltrades.pipeline import collection, given
from alltrades.pipeline.acting import Policies, load_policies
from alltrades.pipeline.context import Context
from alltrades.pipeline.open_loop import specs_there
from alltrades.policies.learning.saliency import Saliency, saliency
from alltrades.policies.learning.swaps import swaps, warnings_of
from alltrades.policies.model.policy import DiffusionPolicy
from alltrades.system.progress import Progress
from alltrades.system.reporting import Report

FRAMES = 4  # of each camera whose saliency is drawn
Looks = dict[str, dict[str, Any]]  # by environment, what `swaps` says, and `warnings`
Pictures = dict[str, dict[str, Saliency]]  # by environment and camera


def narrowed(context: Context, policy: Path) -> tuple[Context, Policies]:
    """The environments that the given stores have episodes of, and the policies that act there.

    Raises UserError where the stores do not fit what the policies see.
    """
    stores = context.settings.demos.stores
    context = replace(context, specs=specs_there(context, policy))
    acting = load_policies(policy, context.specs, context.settings.device)
    seen = {i: set(p.environments[p.environment_index(i)].observation) for i, p in acting.items()}
    given.check(stores, context.specs, seen)
    return context, acting


def look(context: Context, policies: Policies, drawn: bool) -> tuple[Looks, Pictures]:
    """What fields change in each environment, with warnings of those that are ignored, and, with
    `drawn`, where in the pictures of its cameras each policy looks.
    """
    found: Looks = {}
    pictures: Pictures = {}
    seed = context.settings.evaluation.seed
    every = collection.steps_of(context.settings.demos.stores, context.ids)
    with Progress("look", len(context.specs), "env") as bar:
        report = Report(bar.update)
        for k, spec in enumerate(context.specs):
            policy = policies[spec.id]
            mine = every.select((every.environment == spec.id) & every.has_actions)
            mine = context.images.of(mine)
            policy.hear_all(sorted({str(t) for texts in mine.text.values() for t in texts if t}))
            facts = swaps(policy, mine, _interface(policy, spec), seed, goals_of(spec))
            found[spec.id] = facts | {"warnings": _warnings(facts, mine, spec)}
            if drawn:
                pictures[spec.id] = _drawn(policy, mine, spec, facts, seed)
            report.progress(k + 1, len(context.specs))
    return found, pictures


def _interface(policy: DiffusionPolicy, spec: EnvSpec) -> Interface:
    """What a policy knows of an environment."""
    return policy.environments[policy.environment_index(spec.id)]


def goals_of(spec: EnvSpec) -> dict[str, int]:
    """What each sentence of an environment asks for."""
    goals = () if spec.instructions is None else spec.instructions.goals
    return {s: k for k, goal in enumerate(goals) for s in (*goal.training, *goal.held_out)}


def _warnings(facts: Mapping[str, Any], steps: Steps, spec: EnvSpec) -> list[str]:
    """Texts matter where episodes ask for several things."""
    goals = goals_of(spec)
    asked = {
        name: {str(goals.get(str(t), t)) for t in texts} - {""}
        for name, texts in steps.text.items()
    }
    return warnings_of(facts, [name for name, kinds in asked.items() if len(kinds) > 1])


def _drawn(
    policy: DiffusionPolicy, steps: Steps, spec: EnvSpec, facts: Mapping[str, Any], seed: int
) -> dict[str, Saliency]:
    seen = _interface(policy, spec).observation
    cameras = [name for name, f in seen.items() if f.kind == "image"]
    chosen = np.unique(np.linspace(0, len(steps.ends) - 1, FRAMES).round().astype(int))
    share = (np.arange(len(chosen)) + 0.5) / len(chosen)  # a frame of each, earlier to later
    rows = steps.starts[chosen] + (share * steps.lengths[chosen]).astype(int)
    std = np.array(facts["std"])
    return {name: saliency(policy, steps, rows, spec.id, name, std, seed) for name in cameras}


def say(found: Looks) -> Sequence[str]:
    """Warnings of all environments, on stderr; returns them."""
    lines = [f"{name}: {line}" for name, facts in found.items() for line in facts["warnings"]]
    for line in lines:
        print(f"warning: {line}", file=sys.stderr)
    return lines
