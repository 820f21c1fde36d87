"""From an observation window, an environment id and a preference to the vector that conditions the
denoiser.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Conditioner(nn.Module):
    """Concatenates the normalised observation window with a learned environment embedding and the
    preference.

    Args:
        n_environments: K; with K = 1 or embedding = 0 the environment is not shown.
        n_obs_steps, obs_dim: shape of the window.
        embedding: size of the environment embedding.
        preference: whether the preference over environments is an input; it enters as K lambda - 1,
            0 where uniform.
    """

    def __init__(
        self,
        n_environments: int,
        n_obs_steps: int,
        obs_dim: int,
        embedding: int,
        preference: bool = False,
    ) -> None:
        super().__init__()
        self.embedding = (
            nn.Embedding(n_environments, embedding) if embedding and n_environments > 1 else None
        )
        self.preference = preference
        self.dim = (
            n_obs_steps * obs_dim
            + (embedding if self.embedding is not None else 0)
            + (n_environments if preference else 0)
        )

    def forward(
        self, window: Tensor, environment: Tensor, preference: Tensor | None = None
    ) -> Tensor:
        """(B, n_obs_steps, D) normalised, (B,) and, where it is an input, lambda (B, K) -> (B,
        dim).
        """
        parts = [window.flatten(1)]  # (B, n_obs_steps * D)
        if self.embedding is not None:
            parts.append(self.embedding(environment))
        if self.preference:
            assert preference is not None
            parts.append(preference.shape[1] * preference - 1.0)
        return torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0]
