"""Settings of the stage that teaches encoders of cameras to tell the state."""

from __future__ import annotations

from pydantic import Field

from alltrades.policies.settings import Frozen, NetworkTrainSettings


class EyesSettings(Frozen):
    """With policy.encoder.pretrain: how encoders of cameras learn to tell the state."""

    starts: int = Field(
        200,
        ge=0,
        description="random starts of each environment whose pictures are learned from, beside "
        "demonstrations and rollouts",
    )
    rollouts: int = Field(
        0,
        ge=0,
        description="rollouts of each teacher that acts on the state whose pictures are learned "
        "from, where generalists learn from fewer: they show many starts with the robot at work",
    )
    every: int = Field(3, ge=1, description="one of so many steps of an episode is learned from")
    holdout: float = Field(
        0.1, gt=0, le=0.5, description="share of episodes and starts on which errors are measured"
    )
    width: int = Field(256, ge=8, description="of the head that tells the state, used here alone")
    train: NetworkTrainSettings = NetworkTrainSettings(steps=4000, batch=128)
