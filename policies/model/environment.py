"""What a policy remembers of an environment. NumPy only: controllers, exported policies and clients
need it without PyTorch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from alltrades.envs.spec import EnvSpec


@dataclass(frozen=True)
class EnvironmentInfo:
    """The fields of `EnvSpec` that acting needs; `digest` is checked when the policy meets the
    environment again.
    """

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
    stop_action: tuple[float | None, ...] | None = None

    @classmethod
    def of(cls, spec: EnvSpec) -> EnvironmentInfo:
        return cls(
            spec.id,
            spec.obs_dim,
            spec.action_dim,
            tuple(spec.action_low),
            tuple(spec.action_high),
            spec.digest(),
            spec.control_hz,
            spec.max_steps,
            spec.max_action_rate,
            spec.max_action_acceleration,
            spec.image_shape,
            spec.stop_action,
        )

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> EnvironmentInfo:
        """From what `to_json` gave; raises TypeError or KeyError for anything else."""
        fields: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in value.items()
        }
        low = tuple(-np.inf if v is None else float(v) for v in fields["action_low"])
        high = tuple(np.inf if v is None else float(v) for v in fields["action_high"])
        return cls(**{**fields, "action_low": low, "action_high": high})

    def to_json(self) -> dict[str, Any]:
        """Plain values; JSON has no infinity: null is no bound."""
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        return plain | {
            k: [float(v) if np.isfinite(v) else None for v in plain[k]]
            for k in ("action_low", "action_high")
        }


def common_image_shape(infos: Sequence[EnvironmentInfo]) -> tuple[int, int] | None:
    """(height, width) of the images that all environments are; None where one is not, or is of
    another shape.
    """
    shapes = {e.image_shape for e in infos}
    return shapes.pop() if len(shapes) == 1 else None
