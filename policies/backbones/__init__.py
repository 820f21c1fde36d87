"""Denoising networks that share one call: backbone(noisy_chunk, t, condition)."""

from __future__ import annotations

from alltrades.data.errors import UserError, nearest
from alltrades.policies.backbones.base import Backbone
from alltrades.policies.backbones.mlp import ResidualMLP
from alltrades.policies.backbones.transformer import ChunkTransformer
from alltrades.policies.backbones.unet1d import ConditionalUnet1d

BACKBONES: dict[str, type[Backbone]] = {
    "mlp": ResidualMLP,
    "unet1d": ConditionalUnet1d,
    "transformer": ChunkTransformer,
}


def make_backbone(name: str, horizon: int, action_dim: int, condition_dim: int, width: int, depth: int) -> Backbone:
    """Build a denoiser by name; raises UserError for a name that is not in `BACKBONES`."""
    if name not in BACKBONES:
        raise UserError(f"backbone '{name}'; expected one of {', '.join(BACKBONES)}{nearest(name, list(BACKBONES))}")
    return BACKBONES[name](horizon, action_dim, condition_dim, width, depth)


__all__ = ["BACKBONES", "Backbone", "ChunkTransformer", "ConditionalUnet1d", "ResidualMLP", "make_backbone"]
