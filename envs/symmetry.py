"""Symmetries that an environment declares, and how training uses them: every window in a randomly
chosen equivalent form.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Reflection:
    """An involution of the world that leaves dynamics and task as they are.

    The image of an observation is o'[i] = observation_sign[i] * o[observation_index[i]] +
    observation_offset[i], and likewise for actions. Raises ValueError when the two maps do not undo
    themselves.
    """

    observation_index: tuple[int, ...]
    observation_sign: tuple[float, ...]
    observation_offset: tuple[float, ...]
    action_index: tuple[int, ...]
    action_sign: tuple[float, ...]
    action_offset: tuple[float, ...]

    def __post_init__(self) -> None:
        for name, image, size in (
            ("observation", self.observation, len(self.observation_index)),
            ("action", self.action, len(self.action_index)),
        ):
            probe = np.random.default_rng(0).standard_normal(size)
            if not np.allclose(image(image(probe)), probe):
                raise ValueError(
                    f"the {name} map of a reflection, applied twice, changes its argument; "
                    "expected an involution"
                )

    def observation(self, x: np.ndarray) -> np.ndarray:
        """Images of observations (..., obs_dim)."""
        return np.asarray(self.observation_sign) * x[
            ..., list(self.observation_index)
        ] + np.asarray(self.observation_offset)

    def action(self, x: np.ndarray) -> np.ndarray:
        """Images of actions (..., action_dim)."""
        return np.asarray(self.action_sign) * x[..., list(self.action_index)] + np.asarray(
            self.action_offset
        )

    def augment(
        self, window: np.ndarray, action: np.ndarray, rows: np.ndarray, rng: np.random.Generator
    ) -> None:
        """Replace half of these rows of windows (B, n_obs_steps, D) and chunks (B, H, A) by their
        image; padding stays.
        """
        chosen = rows[rng.random(len(rows)) < 0.5]
        for x, image, size in (
            (window, self.observation, len(self.observation_index)),
            (action, self.action, len(self.action_index)),
        ):
            x[chosen, :, :size] = image(x[chosen])


@dataclass(frozen=True)
class Translation:
    """Moving everything in the world by the same amount changes no action.

    Attributes:
        positions: observation indices of each thing's coordinates, such as ((0, 1), (4, 5)) for x
            and y of two things. A thing whose coordinates are all exactly 0 is absent and stays
            there.
        span: largest shift of each coordinate, in the observation's units, to both sides.

    It holds as far as everything that matters is observed and the shifted world is still within
    reach.
    """

    positions: tuple[tuple[int, ...], ...]
    span: tuple[float, ...]

    def __post_init__(self) -> None:
        if any(len(p) != len(self.span) for p in self.positions):
            raise ValueError(
                f"a translation of {len(self.span)} coordinates with positions {self.positions}; "
                "expected as many indices for each thing"
            )

    def augment(
        self, window: np.ndarray, action: np.ndarray, rows: np.ndarray, rng: np.random.Generator
    ) -> None:
        """Shift these rows of windows (B, n_obs_steps, D), each by its own uniform amount; chunks
        stay as they are.
        """
        shift = rng.uniform(-1, 1, (len(rows), 1, 1, len(self.span))) * np.asarray(self.span)
        at = rows[:, None, None], np.arange(window.shape[1])[:, None], np.ravel(self.positions)
        found = window[at].reshape(
            len(rows), window.shape[1], len(self.positions), -1
        )  # (n, n_obs_steps, things, coordinates)
        window[at] = (found + shift * found.any(axis=3, keepdims=True)).reshape(
            len(rows), window.shape[1], -1
        )


Symmetry = Reflection | Translation
