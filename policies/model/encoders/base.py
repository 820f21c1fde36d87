"""What all encoders have in common: from a slot's frames to a vector."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from alltrades.data.fields import Kind
from alltrades.data.layout import Slot


class Encoder(nn.Module):
    """Base of the encoders of images and text; one is made for every slot.

    Args:
        slot: what it sees. A text has one frame for all.
        n_obs_steps: frames of a window.

    Attributes:
        kinds: of the slots that it can see.
        dim: numbers that it gives, set by each encoder.

    A row of the output depends on the same row of the input only, bit for bit at a fixed batch
    size: no encoder may normalise over the batch.
    """

    kinds: ClassVar[tuple[Kind, ...]] = ("image",)
    dim: int

    def __init__(self, slot: Slot, n_obs_steps: int) -> None:
        super().__init__()
        self.shape = slot.shape
        self.frames = n_obs_steps if slot.frames else 1

    def forward(self, frames: Tensor) -> Tensor:
        """(B, frames, *shape), pixels in [-1, 1] -> (B, dim)."""
        raise NotImplementedError
