"""Encoders of images and text; packages offer others as entry points of the group
`alltrades.encoders`, plugins call `ENCODERS.register(name, encoder)`; `policy.encoder` is then
their name.
"""

from __future__ import annotations

from alltrades.data.layout import Slot
from alltrades.policies.model.encoders.base import Encoder
from alltrades.policies.model.encoders.convolution import Convolution
from alltrades.policies.model.encoders.pixels import Pixels
from alltrades.policies.model.encoders.text import TextEncoder
from alltrades.system.extensions import Extensions

ENCODERS: Extensions[type[Encoder]] = Extensions(
    "alltrades.encoders", "encoder", {"convolution": Convolution, "pixels": Pixels}
)


def make_encoder(name: str, slot: Slot, n_obs_steps: int) -> Encoder:
    """The encoder of a slot by name; text has its own where the named one is of images alone.

    Raises UserError for an unknown name.
    """
    kind = ENCODERS.get(name)
    if slot.kind not in kind.kinds:
        kind = TextEncoder if slot.kind == "text" else Convolution
    return kind(slot, n_obs_steps)


__all__ = ["ENCODERS", "Convolution", "Encoder", "Pixels", "TextEncoder", "make_encoder"]
