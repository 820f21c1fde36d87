"""Settings of `alltrades adapt`: a trained generalist takes a new environment."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from alltrades.policies.settings import Frozen, NetworkTrainSettings
from alltrades.settings.distill import VisitSettings


class PractiseSettings(VisitSettings):
    """The best candidate visits new starts of the new environment, and all train on what
    succeeded.
    """

    count: int = Field(
        2, ge=0, le=100, description="rounds; 0: the demonstrations are all that is learned from"
    )
    selection: int = Field(
        30, ge=1, description="episodes, on starts of their own, that choose among candidates"
    )


class AdaptSettings(Frozen):
    """A new environment for a trained generalist (`alltrades adapt`)."""

    candidates: tuple[Literal["scratch", "finetuned"], ...] = Field(
        ("scratch", "finetuned"),
        min_length=1,
        description="specialists that are tried: trained from scratch, fine-tuned from the "
        "generalist; the best rolls out",
    )
    rounds: PractiseSettings = PractiseSettings()
    replay: float = Field(
        0.5,
        ge=0.5,
        lt=1,
        description="share of the environments before in every batch, and in the loss",
    )
    replay_labels: Literal["generalist", "recorded"] = Field(
        "generalist",
        description="what replayed rows learn: chunks that the generalist draws at their states, "
        "or the recorded actions, where there are some",
    )
    replay_episodes: int = Field(
        20,
        ge=1,
        description="rollouts of the generalist in each environment before that no store given "
        "with --replay has",
    )
    demo_share: float = Field(
        0.25,
        gt=0,
        le=1,
        description="share of the demonstrations among the new environment's rows, beside rollouts",
    )
    train: NetworkTrainSettings = NetworkTrainSettings(steps=3000, lr=5e-4)

    @field_validator("candidates")
    @classmethod
    def _different(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError(f"candidates = {list(value)}; expected each once")
        return value
