"""Sizes of the study of density-ratio estimators."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from alltrades.policies.settings import Frozen
from alltrades.settings.compute import ComputeSettings


class Settings(Frozen):
    """Sizes of the study."""

    study: Literal["estimators"] = "estimators"
    name: str = Field("estimators", min_length=1, description="names the folder runs/NAME")
    seed: int = Field(0, ge=0, description="repetition r draws from (seed, r)")
    repetitions: int = Field(
        50, ge=2, description="draws of world, demonstrations and rollouts per cell"
    )
    demos: tuple[int, ...] = Field((5, 25), min_length=1, description="demonstrations")
    dimensions: tuple[int, ...] = Field(
        (10, 30), min_length=1, description="observed dimensions, at least 6"
    )
    drift: tuple[float, ...] = Field(
        (0.4, 0.0), min_length=1, description="shares of rollouts that drift away; 0: no shift"
    )
    rollouts: int = Field(150, ge=2, description="rollouts")
    alpha: float = Field(
        0.2, gt=0, lt=1, description="share of demonstration states in the mixture"
    )
    workers: int | None = Field(None, ge=1, description="processes; default: one per processor")
    compute: ComputeSettings = ComputeSettings()

    def cells(self) -> list[tuple[int, int, float]]:
        """(demonstrations, dimensions, drift)."""
        return [(n, d, share) for share in self.drift for d in self.dimensions for n in self.demos]
