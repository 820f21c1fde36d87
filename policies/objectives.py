"""From losses per sample to the scalar that is minimised: the one place of weighting and reduction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from alltrades.data.errors import UserError, nearest


class Linear:
    """Linear scalarisation: sum over environments of lambda_k times the mean weighted loss of environment k.

    Args:
        environments: ids in the policy's order.
        preference: lambda per environment, default uniform; normalised to sum 1.

    Batches are balanced over environments, so lambda alone sets the trade-off.
    """

    def __init__(self, environments: Sequence[str], preference: Mapping[str, float] | None = None) -> None:
        preference = dict(preference or {})
        for name, value in preference.items():
            if name not in environments:
                raise UserError(f"preference names '{name}'; expected one of {', '.join(environments)}"
                                f"{nearest(name, list(environments))}")
            if value < 0:
                raise UserError(f"preference of '{name}' is {value}; expected a number >= 0")
        values = torch.tensor([preference.get(e, 0.0 if preference else 1.0) for e in environments], dtype=torch.float32)
        if values.sum() <= 0:
            raise UserError("every preference is 0; expected at least one positive number; set --distill.preference")
        self.preference = values / values.sum()  # (K,)

    def __call__(self, losses: Tensor, environment: Tensor, weight: Tensor) -> Tensor:
        """losses (B,), environment (B,), weight (B,) -> scalar."""
        count = len(self.preference)
        zero = torch.zeros(count, device=losses.device)
        total = zero.index_add(0, environment, losses * weight)
        rows = zero.index_add(0, environment, torch.ones_like(losses))
        return (self.preference.to(losses.device) * total / rows.clamp(min=1.0)).sum()
