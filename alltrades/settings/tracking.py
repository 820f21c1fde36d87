"""Settings of metrics."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from alltrades.policies.settings import Frozen


class TrackingSettings(Frozen):
    """Metrics beside the JSONL files."""

    wandb: Literal["offline", "online", "disabled"] = Field("offline", description="wandb mode")
    project: str = Field("alltrades", description="wandb project")
