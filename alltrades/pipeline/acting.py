"""Policies of a run as controllers: which artifact acts in which environment, and what computes its
actions.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from alltrades.envs.spec import EnvSpec
from alltrades.errors import UserError
from alltrades.policies.acting import ActingPolicy
from alltrades.policies.control.controller import Controller
from alltrades.policies.control.ensembling import Ensembling
from alltrades.policies.model.loading import load_policy
from alltrades.policies.model.policy import DiffusionPolicy
from alltrades.policies.model.stacked import StackedPolicy, stack_key, stacks
from alltrades.policies.onnx.onnx_policy import OnnxPolicy
from alltrades.settings.rollouts import RolloutSettings
from alltrades.system.files import slug

GRAPHS = 128  # kept in memory; the oldest goes first
Policies = dict[str, DiffusionPolicy]  # environment id -> policy

_graphs: dict[tuple[str, str, int], OnnxPolicy] = {}  # by digest, preference and rows
_exporting = (
    threading.Lock()
)  # of `_graphs`, and of PyTorch's exporter, which keeps its state in globals


def load_policies(
    path: Path,
    specs: Sequence[EnvSpec],
    device: str = "cpu",
    preference: Mapping[str, float] | None = None,
) -> Policies:
    """Policy per environment from an artifact, or from a folder with one artifact per environment.

    A `preference` is what a policy that takes one acts by; UserError where the artifact takes none.
    """
    if (path / "policy.json").exists():
        policy = load_policy(path, device).set_preference(preference)
        found = {s.id: policy for s in specs}
    else:
        if preference:
            raise UserError(
                f"{path} has one policy per environment, which take no preference; give none"
            )
        found = {
            s.id: load_policy(path / slug(s.id), device)
            for s in specs
            if (path / slug(s.id) / "policy.json").exists()
        }
        missing = [s.id for s in specs if s.id not in found]
        if missing:
            raise UserError(
                f"{path}: no policy for {', '.join(missing)}; expected policy.json, or a folder "
                "per environment"
            )
    for spec in specs:
        found[spec.id].check(spec)
    return found


def acting(policy: DiffusionPolicy, rollouts: RolloutSettings, batch: int) -> ActingPolicy:
    """What computes a policy's chunks in rollouts: the policy itself, or its ONNX graph for calls
    of `batch` rows.

    Graphs are kept in memory: one policy is rolled out, selected and evaluated in several stages,
    some of them in threads beside one another.
    """
    if rollouts.engine == "torch":
        return policy
    acts = [policy.chosen_preference(), [r.known for r in policy.reading]]
    key = (policy.digest(), json.dumps(acts), batch)
    with _exporting:
        if key not in _graphs:
            from alltrades.policies.onnx.export import compiled

            while len(_graphs) >= GRAPHS:
                _graphs.pop(next(iter(_graphs)))
            _graphs[key] = compiled(policy, batch)
        return _graphs[key]


def controllers_of(
    policies: Policies, rollouts: RolloutSettings, ensemble: float | None = None
) -> tuple[dict[str, Controller], dict[str, str]]:
    """One controller for policies of equal shape, and the controller's key for each environment.

    With `ensemble` they plan at every step and average overlapping chunks (see
    `Ensembling`).

    Lanes are spread over environments: one call for the specialists of many serves more of them
    than a call of each. Where shapes differ, few lanes ask one policy at a time, and its calls have
    fewer rows. So it is for graphs, whose small calls cost little.
    """
    distinct = list({id(p): p for p in policies.values()}.values())
    groups = stacks(
        [stack_key(p) for p in distinct], largest=len(distinct) if rollouts.engine == "torch" else 1
    )
    group_of = {id(distinct[i]): f"{number}" for number, group in enumerate(groups) for i in group}
    batch = max(1, min(rollouts.batch, rollouts.lanes // max(1, len(groups))))
    members = [
        StackedPolicy([distinct[i] for i in group]) if len(group) > 1 else distinct[group[0]]
        for group in groups
    ]
    return (
        {
            f"{number}": Controller(
                acting(policy, rollouts, batch),
                rollouts.lanes,
                batch=batch,
                execution=None if ensemble is None else Ensembling(ensemble),
            )
            for number, policy in enumerate(members)
        },
        {name: group_of[id(policy)] for name, policy in policies.items()},
    )
