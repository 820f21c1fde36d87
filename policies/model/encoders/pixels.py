"""Images as they are, for denoisers that see pixels."""

from __future__ import annotations

from math import prod

from torch import Tensor

from alltrades.data.layout import Slot
from alltrades.policies.model.encoders.base import Encoder


class Pixels(Encoder):
    """All pixels of a frame, one channel after another, each row by row. Nothing is learned."""

    def __init__(self, slot: Slot) -> None:
        super().__init__(slot)
        self.dim = prod(slot.shape)

    def forward(self, frames: Tensor, condition: Tensor | None = None) -> Tensor:
        """(N, H, W, C) -> (N, C * H * W)."""
        return frames.movedim(3, 1).flatten(1)
