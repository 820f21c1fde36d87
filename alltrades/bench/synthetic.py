"""Stores of any size that a bench makes: random numbers, through the store's own writer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from alltrades.data.episode import Episode
from alltrades.data.store import EpisodeStore

LENGTH = 100  # steps of an episode
WIDTH, ACTIONS = 8, 4  # numbers of the state and of the action, float32


def write_synthetic(path: Path, steps: int, environments: int, seed: int) -> EpisodeStore:
    """A new store of about so many steps: each of K environments has as many episodes of LENGTH
    steps, at least one, environment after environment, as they are recorded.
    """
    return EpisodeStore.write(path, synthetic(steps, environments, seed))


def synthetic(steps: int, environments: int, seed: int) -> Iterator[Episode]:
    """Its episodes. Those of an environment are a function of (seed, its number) alone."""
    each = max(1, round(steps / LENGTH / environments))
    rewards, successes = np.zeros(LENGTH, np.float32), np.zeros(LENGTH, bool)
    successes[-1] = True
    for k in range(environments):
        rng = np.random.default_rng([seed, k])
        for i in range(each):
            state = rng.standard_normal((LENGTH, WIDTH), dtype=np.float32)
            yield Episode(
                {"state": state},
                np.tanh(state[:, :ACTIONS]),
                rewards,
                successes,
                f"bench/{k:04d}",
                "expert",
                i,
                True,
                LENGTH,
                0.0,
            )
