"""Symmetries that an environment declares, and how training uses them: every window in a randomly
chosen equivalent form.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from alltrades.data.interface import Interface


@dataclass(frozen=True)
class Reflection:
    """An involution of the world that leaves dynamics and task as they are.

    The image of an observation is o'[i] = observation_sign[i] * o[observation_index[i]] +
    observation_offset[i], and likewise for actions; `field` is the state that the map is of, or an
    image, whose pixels are numbered row by row. Raises ValueError when the two maps do not undo
    themselves.
    """

    observation_index: tuple[int, ...]
    observation_sign: tuple[float, ...]
    observation_offset: tuple[float, ...]
    action_index: tuple[int, ...]
    action_sign: tuple[float, ...]
    action_offset: tuple[float, ...]
    field: str = "state"

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

    def check(self, interface: Interface) -> None:
        """Raises ValueError where the environment has other sizes."""
        sizes = len(self.observation_index), len(self.action_index)
        expected = _size(interface, self.field), interface.action_dim
        if sizes != expected:
            raise ValueError(
                f"{interface.id}: a reflection of {sizes[0]} observations and {sizes[1]} actions; "
                f"expected {expected[0]} and {expected[1]}"
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
        """Replace half of these rows of windows (B, n_obs_steps, D or more dimensions) and chunks
        (B, H, A) by their image; padding stays. The windows are contiguous.
        """
        chosen = rows[rng.random(len(rows)) < 0.5]
        flat = window.reshape(*window.shape[:2], -1)  # a view
        for x, image, size in (
            (flat, self.observation, len(self.observation_index)),
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
        field: the state that holds them.

    It holds as far as everything that matters is observed and the shifted world is still within
    reach.
    """

    positions: tuple[tuple[int, ...], ...]
    span: tuple[float, ...]
    field: str = "state"

    def __post_init__(self) -> None:
        if any(len(p) != len(self.span) for p in self.positions):
            raise ValueError(
                f"a translation of {len(self.span)} coordinates with positions {self.positions}; "
                "expected as many indices for each thing"
            )

    def check(self, interface: Interface) -> None:
        """Raises ValueError where the environment has other sizes."""
        last, size = max(map(max, self.positions)), _size(interface, self.field)
        if last >= size:
            raise ValueError(
                f"{interface.id}: a translation of observation {last}; expected indices below "
                f"{size}"
            )

    def augment(
        self, window: np.ndarray, action: np.ndarray, rows: np.ndarray, rng: np.random.Generator
    ) -> None:
        """Shift these rows of windows (B, n_obs_steps, D), each by its own uniform amount; chunks
        stay as they are.
        """
        shift = rng.uniform(-1, 1, (len(rows), 1, 1, len(self.span))) * np.asarray(self.span)
        at = rows[:, None, None], np.arange(window.shape[1])[:, None], np.ravel(self.positions)
        found = window[at]  # (n, n_obs_steps, things * coordinates)
        things = found.reshape(*found.shape[:2], *np.shape(self.positions))
        moved = things + shift * things.any(axis=3, keepdims=True)
        window[at] = moved.reshape(found.shape)


Symmetry = Reflection | Translation


def _size(interface: Interface, name: str) -> int:
    """Numbers of a state or an image; 0 where there is none of that name."""
    found = interface.observation.get(name)
    return 0 if found is None or found.kind == "text" else int(np.prod(found.shape))
