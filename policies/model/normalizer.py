"""Normalisation of observations and actions; part of every policy artifact."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from alltrades.data.layout import Layout
from alltrades.data.rows import Rows
from alltrades.policies.settings import PolicySettings

# dimensions that move less than this in the data keep their unit: 1e-4 in a joint must not become
# 100
MIN_STD = 1e-2
CLIP = 8.0  # bound on normalised observations: unseen values far outside the data stay finite


class Normalizer(nn.Module):
    """Affine maps of padded observations and actions, with masks of the dimensions each environment
    has.

    Args:
        layout: of the K environments.

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

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        obs_mask, action_mask = torch.from_numpy(layout.obs_mask).float(), layout.action_mask
        self.register_buffer("obs_mean", torch.zeros_like(obs_mask))
        self.register_buffer("obs_scale", torch.ones_like(obs_mask))
        self.register_buffer("obs_mask", obs_mask)
        self.register_buffer("action_mean", torch.zeros(layout.action_dim))
        self.register_buffer("action_scale", torch.ones(layout.action_dim))
        self.register_buffer("action_mask", torch.from_numpy(action_mask).float())
        self.register_buffer("fitted", torch.zeros(()))

    def same_actions(self, other: Normalizer) -> bool:
        """Whether both map the action dimensions that they have in common alike."""
        width = min(len(self.action_mean), len(other.action_mean))
        pairs = (
            (self.action_mean, other.action_mean),
            (self.action_scale, other.action_scale),
        )
        return all(torch.equal(a[:width], b[:width]) for a, b in pairs)

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
    observations: Sequence[Rows | np.ndarray],
    actions: Sequence[np.ndarray],
    layout: Layout,
    settings: PolicySettings,
    pixels: int = 1,
) -> tuple[Normalizer, list[str]]:
    """Fit on observations (N_k, D_k), which are read in pieces, and actions (N_k, A_k) of every
    environment.

    Args:
        pixels: so many consecutive dimensions share their statistics: an image's.

    Returns the normaliser and one line for every degenerate dimension (spread below 1e-2), whose
    scale stays 1 or is taken from the pooled data.
    """
    out = Normalizer(layout)
    moments = [_moments(Rows.of(x), pixels) for x in observations]
    mean, scale, notes = _observations(
        moments, layout.obs_dim // pixels, settings.observation_normalizer == "pooled"
    )
    out.obs_mean.copy_(torch.from_numpy(mean.repeat(pixels, axis=1)))
    out.obs_scale.copy_(torch.from_numpy(scale.repeat(pixels, axis=1)))
    values = [_by_pixel(x, pixels) for x in actions]
    center, half, more = _actions(
        values, layout.action_dim // pixels, settings.action_normalizer == "range"
    )
    out.action_mean.copy_(torch.from_numpy(center.repeat(pixels)))
    out.action_scale.copy_(torch.from_numpy(half.repeat(pixels)))
    out.fitted.fill_(1.0)
    return out, notes + more


def _by_pixel(x: np.ndarray, pixels: int) -> np.ndarray:
    """(N, d * pixels) -> (N * pixels, d): a row for every pixel."""
    return x.reshape(len(x), -1, pixels).swapaxes(1, 2).reshape(len(x) * pixels, -1)


def _moments(rows: Rows, pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (d,) in double precision, in two passes over the rows."""
    count = len(rows) * pixels
    total = sum(_by_pixel(x, pixels).sum(0, dtype=np.float64) for x in rows.pieces())
    mean = np.asarray(total) / count
    squares = sum(np.square(_by_pixel(x, pixels) - mean).sum(0) for x in rows.pieces())
    return mean, np.sqrt(np.asarray(squares) / count)


def _observations(
    moments: Sequence[tuple[np.ndarray, np.ndarray]], size: int, pooled: bool
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Mean and scale (K, size) from the moments (D_k,) of every environment; 0 and 1 where it has
    no such dimension.
    """
    means, stds = np.full((2, len(moments), size), np.nan)
    for k, (own_mean, own_std) in enumerate(moments):
        means[k, : len(own_mean)], stds[k, : len(own_std)] = own_mean, own_std
    here = ~np.isnan(means)
    share = here / np.maximum(here.sum(0), 1)  # every environment counts the same, however long
    pooled_mean = (share * np.nan_to_num(means)).sum(0)
    pooled_var = (share * (np.nan_to_num(stds) ** 2 + np.nan_to_num(means - pooled_mean) ** 2)).sum(
        0
    )
    pooled_std = np.sqrt(pooled_var)
    if pooled:
        mean, std = np.tile(pooled_mean, (len(moments), 1)), np.tile(pooled_std, (len(moments), 1))
    else:
        mean, std = np.nan_to_num(means), np.maximum(np.nan_to_num(stds), 0.1 * pooled_std)
    scale = np.where(std < MIN_STD, 1.0, std)
    notes = [
        f"observation[{d}] hardly moves in the demonstrations (deviation {pooled_std[d]:.1e}); not "
        "scaled"
        for d in np.flatnonzero((pooled_std < MIN_STD) & here.any(0))
    ]
    return np.where(here, mean, 0.0), np.where(here, scale, 1.0), notes


def _actions(
    values: Sequence[np.ndarray], size: int, by_range: bool
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Centre and scale (size,) of all (N_k, A_k) arrays together."""
    center, half, notes = np.zeros(size), np.ones(size), []
    for d in range(size):
        column = np.concatenate([a[:, d] for a in values if a.shape[1] > d])
        if by_range:
            low, high = float(column.min()), float(column.max())
            center[d], half[d] = (low + high) / 2, (high - low) / 2
        else:
            center[d], half[d] = float(column.mean()), float(column.std())
        if half[d] < MIN_STD:
            notes.append(
                f"action[{d}] hardly moves in the demonstrations (spread {half[d]:.1e}); not scaled"
            )
            half[d] = 1.0
    return center, half, notes
