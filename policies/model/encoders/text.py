"""Text: a linear layer over its features."""

from __future__ import annotations

from torch import Tensor, nn

from alltrades.data.layout import Slot
from alltrades.policies.model.encoders.base import Encoder

DIM = 64


class TextEncoder(Encoder):
    """A learned projection of the hashed words of a text (see `text_features`)."""

    kinds = ("text",)
    dim = DIM

    def __init__(self, slot: Slot) -> None:
        super().__init__(slot)
        self.scale = slot.shape[0] ** 0.5  # features have length 1; layers expect unit variance
        self.project = nn.Linear(slot.shape[0], DIM)

    def forward(self, frames: Tensor, condition: Tensor | None = None) -> Tensor:
        """(N, TEXT_DIM) -> (N, dim)."""
        return self.project(self.scale * frames)
