"""Residual MLP over the flattened chunk: the default denoiser, and the one that is fast on a
processor.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from alltrades.policies.model.backbones.base import (
    Backbone,
    Further,
    TimeEmbedding,
    zero_head,
    zero_linear,
)

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
        first, later = self.parts(noisy, condition)
        x = self.inlet(
            torch.cat([first.noisy.flatten(1), self.time(t), first.condition], dim=-1)
        )  # (B, width)
        x = self.with_conditions(x, later)
        for more, part in zip(self.growths, later):
            if more.chunk is not None:
                x = x + more.chunk(part.noisy.flatten(1))
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        heads = [self.head, *(more.head for more in self.growths if more.head is not None)]
        chunks = [head(x).unflatten(1, (self.horizon, -1)) for head in heads]  # (B, H, a) each
        return torch.cat(chunks, dim=-1) if len(chunks) > 1 else chunks[0]  # (B, H, A)

    def layers_for(self, actions: int, condition: int) -> Further:
        size = self.horizon * actions
        return Further(
            zero_linear(size, self.width),
            zero_linear(condition, self.width),
            zero_head(nn.Linear(self.width, size)) if actions else None,
        )


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
