"""Chunks that a policy predicts along recorded episodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from alltrades.data.agreement import other_fields, other_numbers
from alltrades.data.interface import Interface
from alltrades.data.steps import Steps
from alltrades.data.store import EpisodeStore
from alltrades.errors import UserError
from alltrades.policies.acting import ActingPolicy
from alltrades.policies.learning.open_loop import draw_chunks
from alltrades.policies.model.loading import load_policy
from alltrades.policies.onnx.onnx_policy import OnnxPolicy
from alltrades.system.files import slug

CHUNKS, MOST = 64, 2**20  # of an episode, and their steps
NAMED = 4  # environments in a message


@dataclass(frozen=True)
class Chunks:
    """What was predicted at steps `at` (n,) of an episode: `values` (n, H, A)."""

    at: np.ndarray
    values: np.ndarray


class Predictor:
    """Policies by environment, and the store that they are shown."""

    def __init__(self, store: EpisodeStore, policies: Mapping[str, ActingPolicy], seed: int = 0):
        self.store, self.policies, self.seed = store, policies, seed
        self._steps = lru_cache(1)(self._of_environment)

    def _of_environment(self, environment: str) -> Steps:
        return self.store.steps([environment])

    def along(self, environment: str, place: int, most: int = MOST) -> Chunks | None:
        """Chunks that follow one another without a gap along an episode, the one at this place
        among its environment's; of a long one CHUNKS, or as many as have `most` steps together,
        evenly spread. None without a policy.
        """
        policy = self.policies.get(environment)
        if policy is None:
            return None
        steps = self._steps(environment)
        start, length = int(steps.starts[place]), int(steps.lengths[place])
        at = np.arange(0, length, policy.horizon)
        count = min(len(at), CHUNKS, max(1, most // policy.horizon))
        at = at[np.linspace(0, len(at) - 1, count).round().astype(int)]
        return Chunks(at, draw_chunks(policy, steps, start + at, environment, self.seed))


def load_policies(
    path: Path, found: Mapping[str, Interface]
) -> tuple[dict[str, ActingPolicy], list[str]]:
    """The policies of a folder, of a folder with one for each environment, or of an .onnx file, by
    environment of a store; and why some environments have none.

    Raises UserError where no environment has one, and for what a policy cannot read.
    """
    out: dict[str, ActingPolicy] = {}
    missing: list[str] = []
    whole = path.suffix == ".onnx" or (path / "policy.json").exists()
    each = [name for name in found if (path / slug(name) / "policy.json").exists()]
    shared = _load(path) if whole or not each else None
    for name, interface in found.items():
        policy = shared or (_load(path / slug(name)) if name in each else None)
        why = _unfit(policy, name, interface)
        if why is None and policy is not None:
            out[name] = policy
        else:
            missing.append(f"no predicted chunks of {name}: {why}")
    if not out:
        raise UserError(f"{path}: {missing[0]}; expected a policy of an environment of the store")
    return out, missing


def _load(path: Path) -> ActingPolicy:
    if path.suffix == ".onnx":
        return OnnxPolicy(path)
    return load_policy(path).set_preference(None)


def _unfit(policy: ActingPolicy | None, name: str, found: Interface) -> str | None:
    known: Sequence[Interface] = () if policy is None else policy.environments
    mine = next((e for e in known if e.id == name), None)
    if mine is None:
        named = ", ".join(e.id for e in known[:NAMED])
        return f"it knows {named}" if named else "there is none of it"
    there = {n: f for n, f in found.observation.items() if n in mine.observation}
    return other_fields(there or found.observation, mine.observation) or other_numbers(found, mine)
