"""Convolutional U-Net over images: the chunk is an image, conditioned on the observed images pixel
by pixel.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alltrades.errors import UserError
from alltrades.policies.model.backbones.base import (
    Backbone,
    Further,
    Image,
    TimeEmbedding,
    zero_head,
    zero_linear,
)
from alltrades.policies.model.backbones.unet1d import (
    TIME_DIM,
    FilmBlock,
    descend_and_climb,
    group_norm,
    rounded,
)

CONTEXT = 128


class ConditionalUnet2d(Backbone):
    """`depth` levels whose channels double up to `width`; every level halves both sides.

    Every action of the chunk is an image (H, W, C), row by row; the condition begins with the
    channels of the observed images, each row by row: all enter as channels. Time and the rest of
    the condition (the environment) scale and shift the features of every block. A learned mixture
    of the observed images, nothing at first, is added to the output: a restored image is close to
    the degraded one. Sides are padded with zeros to a multiple of 2 ** (depth - 1).

    Args:
        image: shape of the images, and how many of them the condition begins with.

    Raises UserError without `image`, and for actions that are no whole number of images.
    """

    pixels = True

    def __init__(
        self,
        horizon: int,
        action_dim: int,
        condition_dim: int,
        width: int = 64,
        depth: int = 3,
        image: Image | None = None,
    ) -> None:
        super().__init__(horizon, action_dim, condition_dim, width, depth)
        if image is None:
            raise UserError(
                "backbone 'unet2d' needs environments that are images; expected actions that "
                "are images of one shape; use mlp, unet1d or transformer"
            )
        self.shape, self.frames = (image.height, image.width), image.images
        size = image.height * image.width
        if action_dim % size:
            raise UserError(
                f"backbone 'unet2d' got actions of {action_dim} entries; expected a multiple of "
                f"{size}, the pixels of an image; use another backbone"
            )
        self.channels = action_dim // size
        out = horizon * self.channels
        channels = [rounded(width >> (depth - 1 - level)) for level in range(depth)]
        self.padding = [-side % 2 ** (depth - 1) for side in self.shape]
        self.time = TimeEmbedding(TIME_DIM)
        rest = condition_dim - self.frames * size
        self.context = nn.Sequential(
            nn.Linear(TIME_DIM + rest, CONTEXT), nn.SiLU(), nn.Linear(CONTEXT, CONTEXT), nn.SiLU()
        )
        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        self.up, self.grow = nn.ModuleList(), nn.ModuleList()
        before = out + self.frames
        for level, size in enumerate(channels):
            self.down.append(FilmBlock(before, size, CONTEXT, nn.Conv2d, 3))
            if level < depth - 1:
                self.shrink.append(nn.Conv2d(size, size, 3, stride=2, padding=1))
                self.grow.append(
                    nn.ConvTranspose2d(
                        channels[level + 1], channels[level + 1], 4, stride=2, padding=1
                    )
                )
                self.up.append(FilmBlock(channels[level + 1] + size, size, CONTEXT, nn.Conv2d, 3))
            before = size
        self.middle = FilmBlock(before, before, CONTEXT, nn.Conv2d, 3)
        self.norm = group_norm(channels[0])
        self.head = zero_head(nn.Conv2d(channels[0], out, 1))
        self.keep = zero_head(nn.Conv2d(self.frames, out, 1, bias=False))

    def forward(self, noisy: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """(B, horizon, A), (B,), (B, C) -> (B, horizon, A)."""
        (noisy, condition), later = self.parts(noisy, condition)
        cut = self.frames * self.shape[0] * self.shape[1]
        known = torch.cat([self.time(t), condition[:, cut:]], dim=-1)
        context = self.context_of(self.context, known, later)  # (B, context)
        seen = condition[:, :cut].unflatten(1, (self.frames, *self.shape))  # (B, frames, H, W)
        pixels = noisy.unflatten(2, (*self.shape, self.channels))  # (B, horizon, H, W, C)
        drawn = pixels.movedim(4, 2).flatten(1, 2)  # (B, images, H, W)
        x = F.pad(torch.cat([drawn, seen], dim=1), (0, self.padding[1], 0, self.padding[0]))
        x = descend_and_climb(self, x, context)
        x = self.head(F.silu(self.norm(x)))[
            :, :, : self.shape[0], : self.shape[1]
        ]  # (B, images, H, W)
        images = (x + self.keep(seen)).unflatten(1, (self.horizon, self.channels))
        return images.movedim(2, 4).flatten(2)

    def layers_for(self, actions: int, condition: int) -> Further:
        assert not actions  # images of one shape
        return Further(None, zero_linear(condition, CONTEXT), None)
