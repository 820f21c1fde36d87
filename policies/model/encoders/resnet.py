"""ResNet-18 (He et al. 2016): from scratch with group norms, or with weights in torchvision's
form.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from alltrades.data.layout import Slot
from alltrades.policies.model.encoders.base import (
    IMAGENET,
    Colours,
    FixedNorm,
    MapEncoder,
    Pretrained,
    fixed_norms,
)
from alltrades.policies.model.encoders.files import read_state

STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))  # channels and stride
SMALLEST = 4  # side of the maps at which halving ends
GROUP = 16  # channels of a group norm's group
EPS = 1e-5  # of the batch norms of pretrained weights


class Block(nn.Module):
    """Two convolutions beside a shortcut, with torchvision's names."""

    def __init__(self, before: int, after: int, stride: int, norm: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = _norm(norm, after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = _norm(norm, after)
        self.downsample = (
            None
            if before == after
            else nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), _norm(norm, after))
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet18(MapEncoder):
    """ResNet-18, whose maps are not halved below a side of 4.

    Args:
        norm: "group", or "fixed" for what is left of pretrained batch norms, which then compute the
            same function as torchvision's network in evaluation.
    """

    def __init__(self, slot: Slot, norm: str = "group") -> None:
        super().__init__(slot, STAGES[-1][0])
        self.architecture = {"norm": norm}
        fixed = norm == "fixed"
        self.colours = Colours(slot, *IMAGENET) if fixed else None
        self.conv1 = nn.Conv2d(3 if fixed else slot.shape[2], 64, 7, 2, 3, bias=False)
        self.bn1 = _norm(norm, 64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        side, before = -(-min(slot.shape[:2]) // 4), 64
        for i, (after, wanted) in enumerate(STAGES):
            stride = wanted if side > SMALLEST else 1
            blocks = [Block(before, after, stride, norm), Block(after, after, 1, norm)]
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
            before, side = after, -(-side // stride)

    def maps(self, frames: Tensor) -> Tensor:
        x = frames.movedim(3, 1).contiguous() if self.colours is None else self.colours(frames)
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        for i in range(len(STAGES)):
            x = getattr(self, f"layer{i + 1}")(x)
        return x

    @classmethod
    def pretrained(cls, path: str) -> Pretrained:
        """A state dictionary of torchvision's resnet18, as .pth, .pt or .safetensors."""
        state = read_state(
            Path(path), "a state dictionary of torchvision's resnet18", "conv1.weight"
        )
        return Pretrained(
            {"norm": "fixed"},
            fixed_norms({k: v for k, v in state.items() if not k.startswith("fc.")}, EPS),
        )


def _norm(kind: str, channels: int) -> nn.Module:
    return FixedNorm(channels) if kind == "fixed" else nn.GroupNorm(channels // GROUP, channels)
