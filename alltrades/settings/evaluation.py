"""The settings of measurement."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from alltrades.envs.perturbations import PICTURES, check_names
from alltrades.errors import UserError
from alltrades.policies.settings import Frozen


class EvaluationSettings(Frozen):
    """Measurement: common starts for every row and every training seed."""

    episodes: int = Field(100, ge=1, description="episodes per environment and row")
    seed: int = Field(
        0,
        ge=0,
        description="root of the evaluation starts; not the run's seed, so that runs compare",
    )
    rows: tuple[str, ...] = Field(
        ("specialists", "labeled_only", "generalist"), min_length=1, description="what to measure"
    )
    compare: tuple[tuple[str, str], ...] = Field(
        (), description="pairs (a, b): a - b; empty: generalist with each row"
    )
    limits: tuple[int, ...] = Field(
        (), description="shorter time limits at which success is reported too"
    )
    preference: dict[str, float] = Field(
        default_factory=dict,
        description="lambda that policies with policy.preference_input act by; empty: uniform",
    )
    instructions: Literal["held_out", "training", "wrong"] = Field(
        "held_out",
        description="sentences that evaluation episodes are told, where they are told any: "
        "phrasings that training never sees, those of training, or wrong: of another goal than "
        "the one that counts",
    )
    perturbations: tuple[str, ...] = Field(
        tuple(PICTURES),
        description="changes of what it sees under which the generalist is measured too, where it "
        "sees pictures; []: none",
    )
    perturbed_episodes: int = Field(
        20,
        ge=1,
        description="episodes per environment and perturbation, the first ones of the evaluation",
    )

    looks: bool = Field(
        True,
        description="say what each field changes of the generalist's actions and where in "
        "pictures it looks, where it sees some",
    )

    @field_validator("perturbations")
    @classmethod
    def _known_perturbations(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        try:
            check_names(value, "perturbations")
        except UserError as error:
            raise ValueError(str(error)) from error
        return value

    @model_validator(mode="after")
    def _measured_rows_are_compared(self) -> EvaluationSettings:
        twice = sorted({row for row in self.rows if self.rows.count(row) > 1})
        if twice:
            raise ValueError(f"rows names {twice[0]} twice; expected each row once; remove one")
        for a, b in self.compare:
            if a == b:
                raise ValueError(f"compare has {a} with itself; expected two rows; remove it")
            for row in (a, b):
                if row not in self.rows:
                    raise ValueError(
                        f"compare names {row}, which rows does not; expected some of "
                        f"{', '.join(self.rows)}; add it to evaluation.rows, or remove the pair"
                    )
        if min(self.limits, default=1) < 1:
            raise ValueError(
                f"limits = {list(self.limits)}; expected numbers of steps of at least 1"
            )
        if len(set(self.limits)) < len(self.limits):
            raise ValueError(f"limits = {list(self.limits)}; expected each once; remove one")
        return self
