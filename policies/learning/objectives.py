"""From losses per sample to the scalar that is minimised: the one place of weighting and reduction.

Batches are balanced over environments, so the preference lambda alone sets the trade-off between
them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from alltrades.policies.model.preference import preference_vector
from alltrades.policies.settings import Frozen

# smallest largest lambda_k E_k: a generalist that meets its teachers everywhere leaves nothing to
# divide by
FLOOR = 1e-6


class ObjectiveSettings(Frozen):
    """How the losses of the environments become one number."""

    kind: Literal["linear", "tchebycheff", "worst"] = Field(
        "linear",
        description="sum of lambda_k L_k; smooth maximum, or maximum, of lambda_k times the "
        "normalised excess loss",
    )
    mu: float = Field(
        0.1, gt=0, description="tchebycheff: smoothing, as a share of the largest lambda_k E_k"
    )
    ema: float = Field(
        0.99, ge=0, lt=1, description="tchebycheff, worst: decay of the average of E_k over batches"
    )

    @property
    def excess(self) -> bool:
        """Whether the losses must be normalised excess losses (see `excess.py`)."""
        return self.kind != "linear"


class Linear:
    """Linear scalarisation: sum over environments of lambda_k times the mean weighted loss of
    environment k.

    Args:
        environments: ids in the policy's order.
        preference: lambda per environment, default uniform; normalised to sum 1.
    """

    def __init__(
        self, environments: Sequence[str], preference: Mapping[str, float] | None = None
    ) -> None:
        self.environments = tuple(environments)
        self.preference = preference_vector(environments, preference)  # (K,)

    def __call__(self, losses: Tensor, environment: Tensor, weight: Tensor) -> Tensor:
        """losses (B,), environment (B,), weight (B,) -> scalar."""
        zero = torch.zeros(len(self.preference), device=losses.device)
        total = zero.index_add(0, environment, losses * weight)
        rows = zero.index_add(0, environment, torch.ones_like(losses))
        count = rows.clamp(min=1.0)
        return (self.shares((total / count).detach(), rows) * total / count).sum()

    def shares(self, means: Tensor, rows: Tensor) -> Tensor:
        """Factor (K,) of every environment's mean loss, given this batch's means (K,) and numbers
        of rows (K,).
        """
        return self.preference.to(means.device)

    def weights(self) -> dict[str, float]:
        """The preference by environment."""
        return dict(zip(self.environments, self.preference.tolist()))

    def metrics(self) -> dict[str, float]:
        """What a metrics line says of the objective."""
        return {}

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint must hold for an exact resume."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `state_dict()`."""


class Tchebycheff(Linear):
    """Smooth Tchebycheff scalarisation mu log sum_k exp(lambda_k E_k / mu) of excess losses E_k
    (Lin et al. 2024).

    Its gradient is sum_k lambda_k softmax_k(lambda E / mu) grad E_k. The log-sum-exp of a batch's
    means is biased, so the softmax is taken of a running average of E_k (bias-corrected, detached),
    and the value is the one with that gradient.

    Args:
        mu: smoothing as a share of the largest lambda_k E_k; towards 0 the worst environment counts
            alone, towards infinity all count in proportion to lambda_k. 0 is the worst environment
            exactly.
        ema: decay of the average over batches.

    Losses handed to it must be excess losses in comparable units (see `excess.py`): where all E_k
    vanish nothing is left.
    """

    def __init__(
        self,
        environments: Sequence[str],
        preference: Mapping[str, float] | None = None,
        mu: float = 0.1,
        ema: float = 0.99,
    ) -> None:
        super().__init__(environments, preference)
        self.mu, self.ema = mu, ema
        self.average = torch.zeros(len(self.preference))
        self.count = torch.zeros(len(self.preference))

    def shares(self, means: Tensor, rows: Tensor) -> Tensor:
        here = rows > 0
        average, count = self.average.to(means.device), self.count.to(means.device)
        self.average = torch.where(here, self.ema * average + (1.0 - self.ema) * means, average)
        self.count = count + here
        preference = self.preference.to(means.device)
        return preference * self._softmax(preference * self.excess())

    def excess(self) -> Tensor:
        """Running average E_k (K,), not below 0; 0 for environments that no batch had."""
        correction = (1.0 - self.ema**self.count).clamp(min=1e-12)
        return (self.average / correction).clamp(min=0.0)

    def _softmax(self, value: Tensor) -> Tensor:
        largest = value.max().clamp(min=FLOOR)
        if self.mu == 0:
            worst = value == value.max()
            return worst / worst.sum()
        return torch.softmax(value / (self.mu * largest), dim=0)

    def metrics(self) -> dict[str, float]:
        return {
            f"excess/{name}": float(value) for name, value in zip(self.environments, self.excess())
        }

    def state_dict(self) -> dict[str, Tensor]:
        return {"average": self.average.clone(), "count": self.count.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.average, self.count = state["average"].clone(), state["count"].clone()


def make_objective(
    settings: ObjectiveSettings,
    environments: Sequence[str],
    preference: Mapping[str, float] | None = None,
) -> Linear:
    """The objective that the settings name."""
    if settings.kind == "linear":
        return Linear(environments, preference)
    return Tchebycheff(
        environments,
        preference,
        settings.mu if settings.kind == "tchebycheff" else 0.0,
        settings.ema,
    )
