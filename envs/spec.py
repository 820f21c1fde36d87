"""What the rest of the framework knows about an environment."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from alltrades.envs.symmetry import Reflection, Symmetry


@dataclass(frozen=True)
class EnvSpec:
    """Description of one environment; picklable, so that worker processes can build it.

    Attributes:
        id: name in the registry, such as "planar/reach".
        make: module-level callable (or functools.partial of one) that builds the gymnasium
            environment.
        obs_dim: length of the flat observation vector.
        action_dim: length of the action vector.
        action_low, action_high: bounds of each action dimension, in the environment's units.
        max_steps: time limit in control steps, enforced by the adapter.
        control_hz: control rate in Hz.
        stop_at_success: end the episode at the first success flag.
        max_action_rate: largest change of each action dimension between two steps, or None for no
            limit.
        max_action_acceleration: largest change of that change, or None for no limit.
        stop_action: what brings a robot to rest, such as zero velocities; None for a dimension that
            keeps its last value (a gripper that holds something). Without one a robot that gets no
            more actions holds the last.
        extra: name of the optional dependency group it needs, or None.
        evaluation_seed: maps evaluation index i to a seed where a published protocol fixes the test
            starts.
        selection_seed: the same for the starts on which policies are chosen, where other seeds are
            not known to be new.
        import_demos: converts a foreign store into episodes, where demonstrations are published
            rather than scripted.
        symmetries: changes of the world under which the task stays the same; training data is
            augmented by them.
        image_shape: (height, width) where observation and action are images, flattened row by row.
        metrics: names of info values of an episode's last step that evaluations report beside
            success; higher is better.
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
    max_action_acceleration: tuple[float, ...] | None = None
    stop_action: tuple[float | None, ...] | None = None
    extra: str | None = None
    evaluation_seed: Callable[[int], int] | None = None
    selection_seed: Callable[[int], int] | None = None
    import_demos: Callable[[Any], list[Any]] | None = None
    symmetries: tuple[Symmetry, ...] = ()
    image_shape: tuple[int, int] | None = None
    metrics: tuple[str, ...] = ()
    version: int = 1

    def __post_init__(self) -> None:
        if len(self.action_low) != self.action_dim or len(self.action_high) != self.action_dim:
            raise ValueError(
                f"{self.id}: action bounds have {len(self.action_low)} and "
                f"{len(self.action_high)} entries; "
                f"expected action_dim = {self.action_dim}"
            )
        if self.stop_action is not None and len(self.stop_action) != self.action_dim:
            raise ValueError(
                f"{self.id}: stop_action has {len(self.stop_action)} entries; expected "
                f"{self.action_dim}"
            )
        if self.max_steps < 1 or self.obs_dim < 1:
            raise ValueError(
                f"{self.id}: max_steps and obs_dim must be positive, got {self.max_steps}, "
                f"{self.obs_dim}"
            )
        if self.image_shape is not None:
            pixels = self.image_shape[0] * self.image_shape[1]
            if self.obs_dim % pixels or self.action_dim % pixels:
                raise ValueError(
                    f"{self.id}: images of {self.image_shape} with {self.obs_dim} observations and "
                    f"{self.action_dim} actions; expected multiples of {pixels}"
                )
        for symmetry in self.symmetries:
            self._check(symmetry)

    def _check(self, symmetry: Symmetry) -> None:
        if isinstance(symmetry, Reflection):
            sizes = len(symmetry.observation_index), len(symmetry.action_index)
            if sizes != (self.obs_dim, self.action_dim):
                raise ValueError(
                    f"{self.id}: a reflection of {sizes[0]} observations and {sizes[1]} actions; "
                    "expected "
                    f"{self.obs_dim} and {self.action_dim}"
                )
        elif max(map(max, symmetry.positions)) >= self.obs_dim:
            raise ValueError(
                f"{self.id}: a translation of observation {max(map(max, symmetry.positions))}; "
                "expected indices "
                f"below {self.obs_dim}"
            )

    def digest(self) -> str:
        """Hash of what a policy depends on: sizes, action bounds, control rate, version (not the
        time limit).
        """
        facts = [
            self.id,
            self.obs_dim,
            self.action_dim,
            list(self.action_low),
            list(self.action_high),
            self.control_hz,
            self.version,
            *([] if self.image_shape is None else [list(self.image_shape)]),
        ]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
