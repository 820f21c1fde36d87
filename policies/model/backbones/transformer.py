"""Transformer over the steps of the chunk, conditioned by adaptive layer norms."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alltrades.policies.model.backbones.base import (
    Backbone,
    Further,
    TimeEmbedding,
    zero_head,
    zero_linear,
)

TIME_DIM = 64
HEAD_DIM = 64


class ChunkTransformer(Backbone):
    """One token per action; time and condition set the scale, shift and gate of every block
    (Peebles & Xie 2023).

    All gates start at zero, so that every block starts as the identity.
    """

    def __init__(
        self, horizon: int, action_dim: int, condition_dim: int, width: int = 256, depth: int = 4
    ) -> None:
        super().__init__(horizon, action_dim, condition_dim, width, depth)
        self.time = TimeEmbedding(TIME_DIM)
        self.context = nn.Sequential(
            nn.Linear(TIME_DIM + condition_dim, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
        )
        self.inlet = nn.Linear(action_dim, width)
        self.position = nn.Parameter(0.02 * torch.randn(1, horizon, width))
        self.blocks = nn.ModuleList([AdaptiveBlock(width) for _ in range(depth)])
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = zero_head(nn.Linear(width, 2 * width))
        self.head = zero_head(nn.Linear(width, action_dim))

    def forward(self, noisy: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """(B, H, A), (B,), (B, C) -> (B, H, A)."""
        first, later = self.parts(noisy, condition)
        known = torch.cat([self.time(t), first.condition], dim=-1)
        context = self.context_of(self.context, known, later)  # (B, width)
        x = self.inlet(first.noisy)
        for more, part in zip(self.growths, later):
            if more.chunk is not None:
                x = x + more.chunk(part.noisy)
        x = x + self.position  # (B, H, width)
        for block in self.blocks:
            x = block(x, context)
        scale, shift = self.modulation(context)[:, None].chunk(2, dim=-1)  # (B, 1, width) each
        x = self.norm(x) * (1.0 + scale) + shift
        heads = [self.head, *(more.head for more in self.growths if more.head is not None)]
        chunks = [head(x) for head in heads]  # (B, H, a) each
        return torch.cat(chunks, dim=-1) if len(chunks) > 1 else chunks[0]

    def layers_for(self, actions: int, condition: int) -> Further:
        return Further(
            zero_linear(actions, self.width),
            zero_linear(condition, self.width),
            zero_head(nn.Linear(self.width, actions)) if actions else None,
        )


class AdaptiveBlock(nn.Module):
    """Self-attention and a two-layer network, each modulated and gated by the context
    (adaLN-Zero).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = next(h for h in range(max(1, width // HEAD_DIM), 0, -1) if width % h == 0)
        self.modulation = zero_head(nn.Linear(width, 6 * width))
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width)
        )

    def attend(self, x: Tensor) -> Tensor:
        """Every step sees every other: (B, H, width) -> (B, H, width)."""
        heads = (
            self.qkv(x).unflatten(-1, (3, self.heads, -1)).transpose(1, 3)
        )  # (B, heads, 3, H, d)
        q, k, v = heads.unbind(2)  # (B, heads, H, d) each
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """(B, H, width), (B, width) -> (B, H, width)."""
        scale1, shift1, gate1, scale2, shift2, gate2 = self.modulation(context)[:, None].chunk(
            6, dim=-1
        )
        x = x + gate1 * self.attend(self.norm1(x) * (1.0 + scale1) + shift1)
        return x + gate2 * self.mlp(self.norm2(x) * (1.0 + scale2) + shift2)
