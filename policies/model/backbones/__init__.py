"""Denoising networks that share one call: backbone(noisy_chunk, t, condition).

Packages offer others as entry points of the group `alltrades.backbones`, plugins call
`BACKBONES.register(name, backbone)`; `policy.backbone` is then their name.
"""

from __future__ import annotations

from alltrades.policies.model.backbones.base import Backbone, Image
from alltrades.policies.model.backbones.mlp import ResidualMLP
from alltrades.policies.model.backbones.transformer import ChunkTransformer
from alltrades.policies.model.backbones.unet1d import ConditionalUnet1d
from alltrades.policies.model.backbones.unet2d import ConditionalUnet2d
from alltrades.system.extensions import Extensions

BACKBONES: Extensions[type[Backbone]] = Extensions(
    "alltrades.backbones",
    "backbone",
    {
        "mlp": ResidualMLP,
        "unet1d": ConditionalUnet1d,
        "unet2d": ConditionalUnet2d,
        "transformer": ChunkTransformer,
    },
)


def make_backbone(
    name: str,
    horizon: int,
    action_dim: int,
    condition_dim: int,
    width: int,
    depth: int,
    image: Image | None = None,
) -> Backbone:
    """Build a denoiser by name; `image` for those that see pixels.

    Raises UserError for an unknown name, and for a backbone of images without `image`.
    """
    kind = BACKBONES.get(name)
    sizes = (horizon, action_dim, condition_dim, width, depth)
    return kind(*sizes, image) if kind.pixels else kind(*sizes)  # type: ignore[call-arg]


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
