"""From an observation window and an environment id to the vector that conditions the denoiser."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Conditioner(nn.Module):
    """Concatenates the normalised observation window with a learned environment embedding.

    Args:
        n_environments: K; with K = 1 or embedding = 0 the environment is not shown.
        history, obs_dim: shape of the window.
        embedding: size of the environment embedding.
    """

    def __init__(self, n_environments: int, history: int, obs_dim: int, embedding: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_environments, embedding) if embedding and n_environments > 1 else None
        self.dim = history * obs_dim + (embedding if self.embedding is not None else 0)

    def forward(self, window: Tensor, environment: Tensor) -> Tensor:
        """(B, history, D) normalised and (B,) -> (B, dim)."""
        flat = window.flatten(1)  # (B, history * D)
        if self.embedding is None:
            return flat
        return torch.cat([flat, self.embedding(environment)], dim=-1)
