"""Exponential moving average of parameters, with a warm-up of the decay."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypedDict

import torch
from torch import Tensor


class State(TypedDict):
    """What an average must remember."""

    count: int
    shadow: list[Tensor]


class EMA:
    """Averaged copies of the parameters that training changes.

    Update k = 0, 1, ... moves the average by 1 - min(decay, (1 + k) / (10 + k)) of the way to the
    parameters, so that early updates forget the initialisation quickly.

    Args:
        parameters: the tensors to average, in an order that later calls keep.
        decay: final decay in [0, 1).

    `count` counts the updates and belongs to the saved state: without it a resumed training would
    warm up again.
    """

    def __init__(self, parameters: Iterable[Tensor], decay: float = 0.995) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"EMA decay {decay}; expected a number in [0, 1)")
        self.decay, self.count = decay, 0
        self.shadow = [p.detach().clone() for p in parameters]

    def current_decay(self) -> float:
        """Decay of the next update."""
        return min(self.decay, (1.0 + self.count) / (10.0 + self.count))

    @torch.no_grad()
    def update(self, parameters: Iterable[Tensor]) -> None:
        """Move the average towards `parameters`, in place."""
        torch._foreach_lerp_(self.shadow, self._matched(parameters), 1.0 - self.current_decay())
        self.count += 1

    @torch.no_grad()
    def copy_to(self, parameters: Iterable[Tensor]) -> None:
        """Overwrite `parameters` by the average."""
        torch._foreach_copy_(self._matched(parameters), self.shadow)

    def state_dict(self) -> State:
        """Copies of the tensors, and their number of updates."""
        return {"count": self.count, "shadow": [s.clone() for s in self.shadow]}

    @torch.no_grad()
    def load_state_dict(self, state: State) -> None:
        """Continue from `state_dict()`; raises ValueError when the tensors differ in number or
        shape.
        """
        torch._foreach_copy_(self.shadow, self._matched(state["shadow"]))
        self.count = int(state["count"])

    def _matched(self, tensors: Iterable[Tensor]) -> list[Tensor]:
        """The tensors as a list; foreach operations would broadcast shapes that differ."""
        found = list(tensors)
        if [t.shape for t in found] != [s.shape for s in self.shadow]:
            raise ValueError(
                "these tensors are not those that are averaged; expected the same number and shapes"
            )
        return found
