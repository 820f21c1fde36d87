"""Denoising networks that share one call: backbone(noisy_chunk, t, condition)."""

from __future__ import annotations

from alltrades.errors import UserError, nearest
from alltrades.policies.model.backbones.base import Backbone, Image
from alltrades.policies.model.backbones.mlp import ResidualMLP
from alltrades.policies.model.backbones.transformer import ChunkTransformer
from alltrades.policies.model.backbones.unet1d import ConditionalUnet1d
from alltrades.policies.model.backbones.unet2d import ConditionalUnet2d

BACKBONES: dict[str, type[Backbone]] = {
    "mlp": ResidualMLP,
    "unet1d": ConditionalUnet1d,
    "unet2d": ConditionalUnet2d,
    "transformer": ChunkTransformer,
}


def make_backbone(
    name: str,
    horizon: int,
    action_dim: int,
    condition_dim: int,
    width: int,
    depth: int,
    image: Image | None = None,
) -> Backbone:
    """Build a denoiser by name; `image` where the environments are images.

    Raises UserError for a name that is not in `BACKBONES`, and for a backbone of images without
    `image`.
    """
    if name not in BACKBONES:
        raise UserError(
            f"backbone '{name}'; expected one of "
            f"{', '.join(BACKBONES)}{nearest(name, list(BACKBONES))}"
        )
    if name == "unet2d":
        return ConditionalUnet2d(horizon, action_dim, condition_dim, width, depth, image)
    return BACKBONES[name](horizon, action_dim, condition_dim, width, depth)


__all__ = [
    "BACKBONES",
    "Backbone",
    "ChunkTransformer",
    "ConditionalUnet1d",
    "ConditionalUnet2d",
    "Image",
    "ResidualMLP",
    "make_backbone",
]
