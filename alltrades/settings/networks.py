"""Settings of specialists and of the labeled-only policy."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from alltrades.policies.settings import (
    LARGEST_LR,
    MOST_ROWS,
    Frozen,
    NetworkTrainSettings,
)

PRIVILEGED_LOSS = (
    "weight of a loss beside the denoising loss: the error of the state as encoders of cameras "
    "tell it, which begin with policy.encoder.pretrain and are not frozen; 0: none"
)


class SpecialistCandidate(Frozen):
    """What one candidate of cross-validation changes; keys left out are as in `specialist`."""

    width: int | None = Field(None, ge=8)
    depth: int | None = Field(None, ge=1)
    batch: int | None = Field(None, ge=1, le=MOST_ROWS)
    lr: float | None = Field(None, gt=0, le=LARGEST_LR)
    weight_decay: float | None = Field(None, ge=0)
    observation_noise: float | None = Field(None, ge=0, le=1)

    def name(self) -> str:
        """Its changes in words."""
        return (
            ", ".join(f"{k} {v}" for k, v in self.model_dump(exclude_none=True).items()) or "as set"
        )


class SpecialistSettings(Frozen):
    """Stage 1: one small policy per environment. Everything else is as in `policy`."""

    width: int = Field(96, ge=8, description="hidden width of a specialist trained from scratch")
    depth: int = Field(2, ge=1, description="residual blocks of a specialist trained from scratch")
    observe: tuple[str, ...] | None = Field(
        None,
        description="fields of observations that specialists see, by name or pattern; default all, "
        "whatever the generalist sees",
    )
    selection: Literal["last", "holdout", "cv"] = Field(
        "last",
        description="last weights; as many steps as held-out episodes prefer (3 demonstrations and "
        "more); or candidate and steps by cross-validation over episodes, one choice for all "
        "environments (not for fine-tuned specialists)",
    )
    candidates: tuple[SpecialistCandidate, ...] = Field(
        (),
        max_length=8,
        description="settings that `cv` compares, such as [{width: 64}, {}, {observation_noise: "
        "0.05}]",
    )
    folds: int = Field(
        3,
        ge=2,
        description="groups of episodes that `cv` holds out in turn (fewer where demonstrations "
        "are)",
    )
    patience: int = Field(
        2,
        ge=1,
        le=10,
        description="looks at the held-out loss, one every tenth of the steps, without a new "
        "lowest after which `cv` trains a candidate no further",
    )
    selection_environments: int = Field(
        10, ge=1, description="environments that take part in `cv`, evenly spread"
    )
    train: NetworkTrainSettings = NetworkTrainSettings(steps=2500)
    finetune: NetworkTrainSettings = NetworkTrainSettings(steps=1000, lr=3e-4)

    @model_validator(mode="after")
    def _candidates_are_compared(self) -> SpecialistSettings:
        if self.candidates and self.selection != "cv":
            raise ValueError(
                f"candidates are given but selection = {self.selection}; set selection: cv or "
                "remove them"
            )
        names = [c.name() for c in self.candidates]
        if len(set(names)) < len(names):
            raise ValueError(f"candidates repeat ({'; '.join(names)}); expected different ones")
        return self


class LabeledOnlySettings(NetworkTrainSettings):
    """The baseline: the generalist's network and its training on demonstrations alone."""

    privileged: float = Field(0.0, ge=0, description=PRIVILEGED_LOSS)
    observe: tuple[str, ...] | None = Field(
        None, description="fields of observations that it sees; default as policy.observe"
    )

    @property
    def train(self) -> NetworkTrainSettings:
        """Its training alone."""
        return NetworkTrainSettings(**self.model_dump(exclude={"observe", "privileged"}))
