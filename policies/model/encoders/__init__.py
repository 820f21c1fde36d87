"""Encoders of images and text; packages offer others as entry points of the group
`alltrades.encoders`, plugins call `ENCODERS.register(name, encoder)`; `policy.encoder.name` is then
their name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alltrades.data.layout import Slot
from alltrades.policies.model.encoders.base import Encoder, MapEncoder, Pretrained
from alltrades.policies.model.encoders.convolution import Convolution
from alltrades.policies.model.encoders.efficientnet import EfficientNetLite0
from alltrades.policies.model.encoders.pixels import Pixels
from alltrades.policies.model.encoders.resnet import ResNet18
from alltrades.policies.model.encoders.text import TextEncoder
from alltrades.policies.model.encoders.transformer import VisionTransformer
from alltrades.system.extensions import Extensions

ENCODERS: Extensions[type[Encoder]] = Extensions(
    "alltrades.encoders",
    "encoder",
    {
        "convolution": Convolution,
        "pixels": Pixels,
        "resnet18": ResNet18,
        "efficientnet_lite0": EfficientNetLite0,
        "transformer": VisionTransformer,
    },
)


def make_encoder(name: str, slot: Slot, architecture: Mapping[str, Any] | None = None) -> Encoder:
    """The encoder of a slot by name; text has its own where the named one is of images alone.

    Args:
        architecture: what it takes besides the slot; of another kind than the named one nothing.

    Raises UserError for an unknown name.
    """
    kind = ENCODERS.get(name)
    if slot.kind not in kind.kinds:
        return TextEncoder(slot) if slot.kind == "text" else Convolution(slot)
    return kind(slot, **(architecture or {}))


__all__ = [
    "ENCODERS",
    "Convolution",
    "Encoder",
    "MapEncoder",
    "Pixels",
    "Pretrained",
    "ResNet18",
    "TextEncoder",
    "make_encoder",
]
