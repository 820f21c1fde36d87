"""What the rest of the framework knows about an environment."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Symmetry:
    """An involution of the world that leaves dynamics and task as they are, such as a reflection.

    The image of an observation is o'[i] = observation_sign[i] * o[observation_index[i]] + observation_offset[i], and likewise
    for actions. Training may then show every window in both forms, see `TrainSettings.symmetry`.

    Raises ValueError when the two maps do not undo themselves.
    """

    observation_index: tuple[int, ...]
    observation_sign: tuple[float, ...]
    observation_offset: tuple[float, ...]
    action_index: tuple[int, ...]
    action_sign: tuple[float, ...]
    action_offset: tuple[float, ...]

    def __post_init__(self) -> None:
        for name, apply, size in (("observation", self.observation, len(self.observation_index)),
                                  ("action", self.action, len(self.action_index))):
            probe = np.random.default_rng(0).standard_normal(size)
            if not np.allclose(apply(apply(probe)), probe):
                raise ValueError(f"the {name} map of a symmetry, applied twice, changes its argument; expected an involution")

    def observation(self, x: np.ndarray) -> np.ndarray:
        """Images of observations (..., obs_dim)."""
        return np.asarray(self.observation_sign) * x[..., list(self.observation_index)] + np.asarray(self.observation_offset)

    def action(self, x: np.ndarray) -> np.ndarray:
        """Images of actions (..., action_dim)."""
        return np.asarray(self.action_sign) * x[..., list(self.action_index)] + np.asarray(self.action_offset)


@dataclass(frozen=True)
class EnvSpec:
    """Description of one environment; picklable, so that worker processes can build it.

    Attributes:
        id: name in the registry, such as "planar/reach".
        make: module-level callable (or functools.partial of one) that builds the gymnasium environment.
        obs_dim: length of the flat observation vector.
        action_dim: length of the action vector.
        action_low, action_high: bounds of each action dimension, in the environment's units.
        max_steps: time limit in control steps, enforced by the adapter.
        control_hz: control rate in Hz.
        stop_at_success: end the episode at the first success flag.
        max_action_rate: largest change of each action dimension between two steps, or None for no limit.
        extra: name of the optional dependency group it needs, or None.
        evaluation_seed: maps evaluation index i to a seed where a published protocol fixes the test starts.
        import_demos: converts a foreign store into episodes, where demonstrations are published rather than scripted.
        symmetry: a reflection or the like that maps the task onto itself, used to augment training data.
        version: raise it when observations or actions change meaning.
    """

    id: str
    make: Callable[[], Any]
    obs_dim: int
    action_dim: int
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    max_steps: int
    control_hz: float = 10.0
    stop_at_success: bool = True
    max_action_rate: tuple[float, ...] | None = None
    extra: str | None = None
    evaluation_seed: Callable[[int], int] | None = None
    import_demos: Callable[[Any], list[Any]] | None = None
    symmetry: Symmetry | None = None
    version: int = 1

    def __post_init__(self) -> None:
        if len(self.action_low) != self.action_dim or len(self.action_high) != self.action_dim:
            raise ValueError(f"{self.id}: action bounds have {len(self.action_low)} and {len(self.action_high)} entries; "
                             f"expected action_dim = {self.action_dim}")
        if self.max_steps < 1 or self.obs_dim < 1:
            raise ValueError(f"{self.id}: max_steps and obs_dim must be positive, got {self.max_steps}, {self.obs_dim}")
        if self.symmetry is not None and (len(self.symmetry.observation_index) != self.obs_dim
                                          or len(self.symmetry.action_index) != self.action_dim):
            raise ValueError(f"{self.id}: its symmetry maps {len(self.symmetry.observation_index)} observations and "
                             f"{len(self.symmetry.action_index)} actions; expected {self.obs_dim} and {self.action_dim}")

    def digest(self) -> str:
        """Hash of what a policy depends on: sizes, action bounds, control rate, version (not the time limit)."""
        facts = [self.id, self.obs_dim, self.action_dim, list(self.action_low), list(self.action_high),
                 self.control_hz, self.version]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
