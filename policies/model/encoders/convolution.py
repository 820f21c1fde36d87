"""A small convolutional network for images of any size."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from alltrades.data.layout import Slot
from alltrades.policies.model.backbones.unet1d import group_norm
from alltrades.policies.model.encoders.base import Encoder

DIM = 64  # numbers of an image
CHANNELS = (32, 64, 64)  # of the first layers; further ones have as many as the last
SMALLEST = 8  # side at which halving ends
LARGE = 128  # side from which the first layer quarters both sides
KERNEL = {1: 3, 2: 3, 4: 7}  # by stride


class Convolution(Encoder):
    """Halves both sides until the smaller is 8 or less, then tells of every channel where it is
    strongest (spatial softmax, Levine et al. 2016) and how strong it is on average.

    The frames of a window enter as channels of one image.
    """

    dim = DIM

    def __init__(self, slot: Slot, n_obs_steps: int) -> None:
        super().__init__(slot, n_obs_steps)
        height, width, channels = slot.shape
        before, side = n_obs_steps * channels, min(height, width)
        layers: list[nn.Module] = []
        while len(layers) < 2 * 3 or side > SMALLEST:
            level = len(layers) // 3
            stride = 1 if side <= SMALLEST else 4 if level == 0 and side >= LARGE else 2
            after, kernel = CHANNELS[min(level, len(CHANNELS) - 1)], KERNEL[stride]
            layers += [
                nn.Conv2d(before, after, kernel, stride, kernel // 2),
                group_norm(after),
                nn.SiLU(),
            ]
            side, before = -(-side // stride), after
        self.layers = nn.Sequential(*layers)
        self.sharpness = nn.Parameter(torch.ones(before))
        self.project = nn.Linear(3 * before, DIM)

    def forward(self, frames: Tensor) -> Tensor:
        """(B, frames, H, W, C) -> (B, dim)."""
        x = self.layers(frames.movedim(4, 2).flatten(1, 2))  # (B, channels, h, w)
        share = (self.sharpness[:, None] * x.flatten(2)).softmax(-1).view_as(x)
        rows, columns = (
            torch.linspace(-1, 1, size, device=x.device, dtype=x.dtype) for size in x.shape[2:]
        )
        where = (share.sum(3) @ rows, share.sum(2) @ columns, x.mean((2, 3)))  # (B, channels) each
        return self.project(torch.cat(where, dim=-1))
