"""What a policy, in PyTorch or exported, remembers of its environments. No PyTorch here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from alltrades.envs.spec import EnvSpec


@dataclass(frozen=True)
class EnvironmentInfo:
    """What a policy remembers of an environment; `digest` is checked when the policy meets the environment again."""

    id: str
    obs_dim: int
    action_dim: int
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    digest: str
    control_hz: float
    max_steps: int
    max_action_rate: tuple[float, ...] | None = None
    max_action_acceleration: tuple[float, ...] | None = None
    image_shape: tuple[int, int] | None = None

    @classmethod
    def of(cls, spec: EnvSpec) -> EnvironmentInfo:
        return cls(spec.id, spec.obs_dim, spec.action_dim, tuple(spec.action_low), tuple(spec.action_high),
                   spec.digest(), spec.control_hz, spec.max_steps, spec.max_action_rate,
                   spec.max_action_acceleration, spec.image_shape)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> EnvironmentInfo:
        """From JSON, where a bound of null is none at all."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}
        fields["action_low"] = tuple(-math.inf if v is None else float(v) for v in value["action_low"])
        fields["action_high"] = tuple(math.inf if v is None else float(v) for v in value["action_high"])
        return cls(**fields)


def common_image_shape(infos: Sequence[EnvironmentInfo]) -> tuple[int, int] | None:
    """(height, width) of the images that all environments are; None where one is not, or is of another shape."""
    shapes = {e.image_shape for e in infos}
    return shapes.pop() if len(shapes) == 1 else None
