"""Seeds: one stream for every (root, purpose, environment, episode), so that purposes never share a
start.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from alltrades.envs.spec import EnvSpec
from alltrades.errors import UserError
from alltrades.system.streams import stream

PURPOSES = (
    "demos",
    "rollout",
    "selection",
    "evaluation",
    "round",
    "train",
    "bench",
    "deploy",
    "plot",
    "held_out",
    "intervention",
    "eyes",
    "diagnosis",
)  # append only


def episode_seed(root: int, purpose: str, env_id: str, index: int, block: int = 1) -> int:
    """63-bit seed of episode `index` of an environment; raises ValueError for an unknown
    purpose. Stores and published results name these seeds: the formula stays as it is.

    block: episodes in a row that have seeds in a row, from a multiple of it on: one start under
    every instruction (see `EnvSpec.block`).
    """
    entropy = [root, PURPOSES.index(purpose), zlib.crc32(env_id.encode()), index // block]
    first = int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]) >> 1
    return first - first % block + index % block


def policy_generator(seed: int) -> np.random.Generator:
    """Generator of the policy's noise in the episode with this seed, independent of the
    environment's own stream.
    """
    return stream(seed, "policy")


def evaluation_seeds(spec: EnvSpec, root: int, episodes: int) -> list[int]:
    """Evaluation starts of an environment: the published ones where a protocol fixes them."""
    if spec.evaluation_seed is not None:
        return [spec.evaluation_seed(i) for i in range(episodes)]
    return [episode_seed(root, "evaluation", spec.id, i, spec.block) for i in range(episodes)]


def evaluation_starts(
    specs: Iterable[EnvSpec], root: int, episodes: int
) -> dict[str, Sequence[int]]:
    """`evaluation_seeds` by environment; equal roots mean equal starts. UserError for fewer than
    one episode.
    """
    if episodes < 1:
        raise UserError(
            f"{episodes} evaluation episodes; expected at least 1; set --evaluation.episodes"
        )
    return {spec.id: evaluation_seeds(spec, root, episodes) for spec in specs}


def selection_seeds(spec: EnvSpec, root: int, episodes: int) -> list[int]:
    """Starts of an environment on which policies are chosen."""
    if spec.selection_seed is not None:
        return [spec.selection_seed(i) for i in range(episodes)]
    return [episode_seed(root, "selection", spec.id, i, spec.block) for i in range(episodes)]


def plot_seeds(spec: EnvSpec, root: int, episodes: int) -> list[int]:
    """Starts of an environment whose trajectories are drawn."""
    return [episode_seed(root, "plot", spec.id, i, spec.block) for i in range(episodes)]


def check_disjoint(uses: Mapping[str, Iterable[tuple[str, int]]]) -> None:
    """Raise UserError when a start of the use "evaluation" occurs in another use. O(starts)."""
    evaluation = set(uses.get("evaluation", ()))
    for name, starts in uses.items():
        shared = evaluation.intersection(starts) if name != "evaluation" else set()
        if shared:
            env_id, seed = min(shared)
            raise UserError(
                f"{len(shared)} evaluation starts were used for {name} too, such as seed {seed} of "
                f"'{env_id}'; expected none; choose another --evaluation.seed"
            )
