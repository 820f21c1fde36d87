"""What all denoisers have in common: their call, the embedding of time, the
zero-initialised head.
"""

from __future__ import annotations

import math
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn


class Image(NamedTuple):
    """Shape of the images that chunks consist of. The condition begins with `images` of them,
    flattened row by row.
    """

    images: int
    height: int
    width: int


class Backbone(nn.Module):
    """Base of the denoisers.

    Args:
        horizon, action_dim: shape (H, A) of an action chunk.
        condition_dim: size C of the conditioning vector.
        width: hidden width (the widest level for the U-Net).
        depth: residual blocks (levels for the U-Nets).

    Attributes:
        pixels: whether the condition begins with the observed images; such a denoiser takes an
            `Image` as last argument.

    A row of the output depends on the same row of the inputs only, bit for bit at a fixed batch
    size: no network here may normalise over the batch.
    """

    pixels: ClassVar[bool] = False

    def __init__(
        self, horizon: int, action_dim: int, condition_dim: int, width: int, depth: int
    ) -> None:
        super().__init__()
        self.horizon, self.action_dim, self.condition_dim = horizon, action_dim, condition_dim
        self.width, self.depth = width, depth

    def forward(self, noisy: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """(B, H, A) noised chunk, (B,) times in [0, 1], (B, C) condition -> (B, H, A)
        prediction.
        """
        raise NotImplementedError


class TimeEmbedding(nn.Module):
    """Sines and cosines of t at `dim // 2` frequencies, log-spaced from 1 to 256 radians per unit
    of time.

    The lowest tells the ends of [0, 1] apart, the highest neighbouring steps of a 100-step process.
    """

    frequencies: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = 2 * (dim // 2)
        self.register_buffer(
            "frequencies", torch.linspace(0.0, math.log(256.0), dim // 2).exp(), persistent=False
        )

    def forward(self, t: Tensor) -> Tensor:
        """(B,) -> (B, dim)."""
        angle = t[:, None] * self.frequencies  # (B, dim / 2)
        return torch.cat([angle.sin(), angle.cos()], dim=-1)


def zero_head(layer: nn.Linear | nn.Conv1d | nn.Conv2d) -> nn.Linear | nn.Conv1d | nn.Conv2d:
    """Zero the layer, so that the untrained network predicts the mean of normalised targets."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
