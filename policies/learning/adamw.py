"""AdamW (Loshchilov and Hutter 2019) by PyTorch's fused step, without its class.

The class imports PyTorch's compiler, which takes more than a second of every process that trains.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.adamw import adamw

BETAS, EPS = (0.9, 0.999), 1e-8


class AdamW:
    """Steps as those of `torch.optim.AdamW(..., fused=True)`, bit for bit.

    Args:
        decayed: parameters that lose a share `lr * weight_decay` of themselves in every step.
        others: parameters that do not.

    Attributes:
        state: of each parameter, once it had a gradient: `step`, a scalar, and the averages of its
            gradient and of that squared, `exp_avg` and `exp_avg_sq`, of its shape.
    """

    def __init__(
        self, decayed: Sequence[Tensor], others: Sequence[Tensor], weight_decay: float
    ) -> None:
        self._groups = [(list(decayed), weight_decay), (list(others), 0.0)]
        self.state: dict[Tensor, dict[str, Tensor]] = {}

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Move the parameters that have a gradient, in place."""
        for parameters, weight_decay in self._groups:
            moved = [p for p in parameters if p.grad is not None]
            if not moved:
                continue
            states = [self._state(p) for p in moved]
            adamw(
                moved,
                [p.grad for p in moved if p.grad is not None],
                [s["exp_avg"] for s in states],
                [s["exp_avg_sq"] for s in states],
                [],
                [s["step"] for s in states],
                fused=True,
                amsgrad=False,
                beta1=BETAS[0],
                beta2=BETAS[1],
                lr=lr,
                weight_decay=weight_decay,
                eps=EPS,
                maximize=False,
            )

    def forget_gradients(self) -> None:
        """As if there had been no backward pass."""
        for parameters, _ in self._groups:
            for p in parameters:
                p.grad = None

    def _state(self, p: Tensor) -> dict[str, Tensor]:
        if not self.state.get(p):
            self.state[p] = {
                "step": torch.zeros((), dtype=torch.float32, device=p.device),
                "exp_avg": torch.zeros_like(p, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(p, memory_format=torch.preserve_format),
            }
        return self.state[p]
