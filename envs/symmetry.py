"""Symmetries that an environment declares, and how training uses them: every window in a randomly chosen equivalent form."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Reflection:
    """An involution of the world that leaves dynamics and task as they are.

    The image of an observation is o'[i] = observation_sign[i] * o[observation_index[i]] + observation_offset[i], and likewise
    for actions. Raises ValueError when the two maps do not undo themselves.
    """

    observation_index: tuple[int, ...]
    observation_sign: tuple[float, ...]
    observation_offset: tuple[float, ...]
    action_index: tuple[int, ...]
    action_sign: tuple[float, ...]
    action_offset: tuple[float, ...]

    def __post_init__(self) -> None:
        for name, image, size in (("observation", self.observation, len(self.observation_index)),
                                  ("action", self.action, len(self.action_index))):
            probe = np.random.default_rng(0).standard_normal(size)
            if not np.allclose(image(image(probe)), probe):
                raise ValueError(f"the {name} map of a reflection, applied twice, changes its argument; expected an involution")

    def observation(self, x: np.ndarray) -> np.ndarray:
        """Images of observations (..., obs_dim)."""
        return np.asarray(self.observation_sign) * x[..., list(self.observation_index)] + np.asarray(self.observation_offset)

    def action(self, x: np.ndarray) -> np.ndarray:
        """Images of actions (..., action_dim)."""
        return np.asarray(self.action_sign) * x[..., list(self.action_index)] + np.asarray(self.action_offset)

    def augment(self, window: np.ndarray, action: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Windows (B, history, D) and chunks (B, H, A), half of them as their image."""
        chosen = (rng.random(len(window)) < 0.5)[:, None, None]
        return np.where(chosen, self.observation(window), window), np.where(chosen, self.action(action), action)


@dataclass(frozen=True)
class Translation:
    """Moving everything in the world by the same amount changes no action.

    Attributes:
        positions: observation indices of each thing's coordinates, such as ((0, 1), (4, 5)) for x and y of two things. A
            thing whose coordinates are all exactly 0 is absent and stays there.
        span: largest shift of each coordinate, in the observation's units, to both sides.

    It holds as far as everything that matters is observed and the shifted world is still within reach.
    """

    positions: tuple[tuple[int, ...], ...]
    span: tuple[float, ...]

    def __post_init__(self) -> None:
        if any(len(p) != len(self.span) for p in self.positions):
            raise ValueError(f"a translation of {len(self.span)} coordinates with positions {self.positions}; expected as many "
                             "indices for each thing")

    def augment(self, window: np.ndarray, action: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Windows (B, history, D), each shifted by its own uniform amount; chunks (B, H, A) as they are."""
        shift = rng.uniform(-1, 1, (len(window), 1, len(self.span))) * np.asarray(self.span)
        moved = window.copy()
        for position in self.positions:
            here = window[:, :, list(position)]
            moved[:, :, list(position)] += shift * here.any(axis=2, keepdims=True)
        return moved, action


Symmetry = Reflection | Translation
