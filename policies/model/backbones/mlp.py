"""Residual MLP over the flattened chunk: the default denoiser, and the one that is fast on a
processor.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from alltrades.policies.model.backbones.base import Backbone, TimeEmbedding, zero_head

TIME_DIM = 64


class ResidualMLP(Backbone):
    """Pre-norm residual blocks of two square layers; chunk, time and condition are joined once, at
    the input.

    At width 512 and depth 3 about 1.7 M parameters for a chunk of 16 x 4 and a condition of 100.
    Nearly all of its time is in matrix products, hence SiLU rather than the dearer Mish, and no
    conditioning layers inside the blocks.
    """

    def __init__(
        self, horizon: int, action_dim: int, condition_dim: int, width: int = 512, depth: int = 3
    ) -> None:
        super().__init__(horizon, action_dim, condition_dim, width, depth)
        self.time = TimeEmbedding(TIME_DIM)
        self.inlet = nn.Linear(horizon * action_dim + TIME_DIM + condition_dim, width)
        self.blocks = nn.ModuleList([ResidualBlock(width) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.head = zero_head(nn.Linear(width, horizon * action_dim))

    def forward(self, noisy: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """(B, H, A), (B,), (B, C) -> (B, H, A)."""
        x = self.inlet(torch.cat([noisy.flatten(1), self.time(t), condition], dim=-1))  # (B, width)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)).unflatten(1, (self.horizon, self.action_dim))  # (B, H, A)


class ResidualBlock(nn.Module):
    """x + W2 SiLU(W1 LayerNorm(x))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.first = nn.Linear(width, width)
        self.act = nn.SiLU()
        self.second = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width) -> (B, width)."""
        return x + self.second(self.act(self.first(self.norm(x))))
