"""Normalisation of observations and actions; part of every policy artifact."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

# dimensions that move less than this in the data keep their unit: 1e-4 in a joint must not become
# 100
MIN_STD = 1e-2
CLIP = 8.0  # bound on normalised observations: unseen values far outside the data stay finite


class Normalizer(nn.Module):
    """Affine maps of padded observations and actions, with masks of the dimensions each environment
    has.

    Args:
        n_environments: K.
        obs_dim, action_dim: padded sizes D and A.

    Buffers: obs_mean, obs_scale, obs_mask (K, D); action_mean, action_scale (A,), action_mask (K,
    A). Actions share one map over all environments, so that predictions of different policies can
    be compared.
    """

    obs_mean: Tensor
    obs_scale: Tensor
    obs_mask: Tensor
    action_mean: Tensor
    action_scale: Tensor
    action_mask: Tensor
    fitted: Tensor

    def __init__(self, n_environments: int, obs_dim: int, action_dim: int) -> None:
        super().__init__()
        self.register_buffer("obs_mean", torch.zeros(n_environments, obs_dim))
        self.register_buffer("obs_scale", torch.ones(n_environments, obs_dim))
        self.register_buffer("obs_mask", torch.ones(n_environments, obs_dim))
        self.register_buffer("action_mean", torch.zeros(action_dim))
        self.register_buffer("action_scale", torch.ones(action_dim))
        self.register_buffer("action_mask", torch.ones(n_environments, action_dim))
        self.register_buffer("fitted", torch.zeros(()))

    def repeated(self, times: int) -> Normalizer:
        """The same maps with every dimension repeated in place: statistics of a pixel as those of
        an image's pixels.
        """
        out = Normalizer(
            len(self.obs_mean), times * self.obs_mean.shape[1], times * len(self.action_mean)
        )
        for name, value in self.named_buffers():
            getattr(out, name).copy_(value.repeat_interleave(times, -1) if value.dim() else value)
        return out

    def observation(self, window: Tensor, environment: Tensor) -> Tensor:
        """(B, n_obs_steps, D) and (B,) -> (B, n_obs_steps, D), clipped to +-8; missing dimensions
        become 0.
        """
        mean, scale = (
            self.obs_mean[environment][:, None],
            self.obs_scale[environment][:, None],
        )  # (B, 1, D)
        return ((window - mean) / scale).clamp(-CLIP, CLIP) * self.obs_mask[environment][:, None]

    def action(self, chunk: Tensor) -> Tensor:
        """(B, H, A) in environment units -> normalised."""
        return (chunk - self.action_mean) / self.action_scale

    def unaction(self, chunk: Tensor) -> Tensor:
        """(B, H, A) normalised -> environment units; the inverse of `action`."""
        return chunk * self.action_scale + self.action_mean


def fit_normalizer(
    observations: list[np.ndarray],
    actions: list[np.ndarray],
    obs_mode: str,
    action_mode: str,
    obs_dim: int,
    action_dim: int,
) -> tuple[Normalizer, list[str]]:
    """Fit on one (N_k, D_k) and one (N_k, A_k) array per environment.

    Returns the normaliser and one line for every degenerate dimension (spread below 1e-2), whose
    scale stays 1 or is taken from the pooled data.
    """
    count = len(observations)
    out = Normalizer(count, obs_dim, action_dim)
    padded_obs = np.full((count, obs_dim), np.nan)
    notes: list[str] = []
    obs_std = np.full((count, obs_dim), np.nan)
    for k, x in enumerate(observations):
        out.obs_mask[k, x.shape[1] :] = 0
        out.action_mask[k, actions[k].shape[1] :] = 0
        padded_obs[k, : x.shape[1]] = x.mean(0, dtype=np.float64)
        obs_std[k, : x.shape[1]] = x.std(0, dtype=np.float64)
    here = ~np.isnan(padded_obs)
    share = here / np.maximum(here.sum(0), 1)
    pooled_mean = (share * np.nan_to_num(padded_obs)).sum(
        0
    )  # every environment counts the same, however long
    pooled_var = (
        share * (np.nan_to_num(obs_std) ** 2 + np.nan_to_num(padded_obs - pooled_mean) ** 2)
    ).sum(0)
    pooled_std = np.sqrt(pooled_var)
    if obs_mode == "pooled":
        mean, std = np.tile(pooled_mean, (count, 1)), np.tile(pooled_std, (count, 1))
    else:
        mean, std = np.nan_to_num(padded_obs), np.maximum(np.nan_to_num(obs_std), 0.1 * pooled_std)
    scale = np.where(std < MIN_STD, 1.0, std)
    for still in np.flatnonzero((pooled_std < MIN_STD) & here.any(0)):
        d = int(still)
        notes.append(
            f"observation[{d}] hardly moves in the demonstrations (deviation "
            f"{pooled_std[d]:.1e}); not scaled"
        )
    out.obs_mean.copy_(torch.from_numpy(np.where(here, mean, 0.0)))
    out.obs_scale.copy_(torch.from_numpy(np.where(here, scale, 1.0)))

    for d in range(action_dim):
        columns = [a[:, d] for a in actions if a.shape[1] > d]
        if not columns:
            continue
        values = np.concatenate(columns)
        if action_mode == "range":
            low, high = float(values.min()), float(values.max())
            center, half = (low + high) / 2, (high - low) / 2
        else:
            center, half = float(values.mean()), float(values.std())
        if half < MIN_STD:
            notes.append(
                f"action[{d}] hardly moves in the demonstrations (spread {half:.1e}); not scaled"
            )
            half = 1.0
        out.action_mean[d], out.action_scale[d] = center, half
    out.fitted.fill_(1.0)
    return out, notes
