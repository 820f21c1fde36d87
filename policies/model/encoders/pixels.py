"""Images as they are, for denoisers that see pixels."""

from __future__ import annotations

from math import prod

from torch import Tensor

from alltrades.data.layout import Slot
from alltrades.policies.model.encoders.base import Encoder


class Pixels(Encoder):
    """All pixels of all frames, one channel after another, each row by row. Nothing is learned."""

    def __init__(self, slot: Slot, n_obs_steps: int) -> None:
        super().__init__(slot, n_obs_steps)
        self.dim = n_obs_steps * prod(slot.shape)

    def forward(self, frames: Tensor) -> Tensor:
        """(B, frames, H, W, C) -> (B, frames * C * H * W)."""
        return frames.movedim(4, 2).flatten(1)
