"""Episodes that are held out of all training, to judge policies on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from alltrades.data.steps import Steps
from alltrades.system.streams import stream

UNSIMULATED = 0.2  # share of the episodes where there is no simulator


def held_out_places(count: int, share: float, seed: int, environment: str) -> np.ndarray:
    """Which of an environment's `count` episodes are held out, ascending: that share of them,
    rounded, but at least one and not all, where it is above 0 and there are two or more.
    """
    if share == 0 or count < 2:
        return np.zeros(0, int)
    number = min(max(1, round(share * count)), count - 1)
    return np.sort(stream(seed, "held out episodes", environment).permutation(count)[:number])


def held_out_mask(steps: Steps, shares: Mapping[str, float], seed: int) -> np.ndarray:
    """(E,) bool, the episodes with actions that are held out; `shares` by environment."""
    mask = np.zeros(len(steps.ends), bool)
    for name, share in shares.items():
        own = steps.acted(name)
        mask[own[held_out_places(len(own), share, seed, name)]] = True
    return mask
