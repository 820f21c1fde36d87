"""A small convolutional network for images of any size."""

from __future__ import annotations

from torch import Tensor, nn

from alltrades.data.layout import Slot
from alltrades.policies.model.backbones.unet1d import group_norm
from alltrades.policies.model.encoders.base import MapEncoder

CHANNELS, LAST = 32, 64  # of the layers, and of the last one
SMALLEST = 16  # side at which halving ends
LARGE = 128  # side from which the first layer quarters both sides
KERNEL = {1: 3, 2: 3, 4: 7}  # by stride


class Convolution(MapEncoder):
    """Halves both sides until the smaller is 16 or less, looks once more, then tells where every
    channel is strongest (see `MapEncoder`). 0.03 to
    0.05 M parameters.

    The first layer, whose maps are the largest, is not normalised.
    """

    def __init__(self, slot: Slot) -> None:
        super().__init__(slot, LAST)
        side = min(slot.shape[:2])
        stride = 4 if side >= LARGE else 2 if side > SMALLEST else 1
        kernel = KERNEL[stride]
        layers: list[nn.Module] = [
            nn.Conv2d(slot.shape[2], CHANNELS, kernel, stride, kernel // 2),
            nn.ReLU(inplace=True),
        ]
        while stride > 1 or len(layers) == 2:
            side = -(-side // stride)
            stride = 2 if side > SMALLEST else 1
            after = CHANNELS if stride > 1 else LAST
            layers += [
                nn.Conv2d(CHANNELS, after, 3, stride, 1, bias=False),
                group_norm(after),
                nn.ReLU(inplace=True),
            ]
        self.layers = nn.Sequential(*layers)

    def maps(self, frames: Tensor) -> Tensor:
        return self.layers(frames.movedim(3, 1).contiguous())
