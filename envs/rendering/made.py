"""The fields that are made of an environment beside its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from alltrades.data.fields import Field
from alltrades.envs.rendering.camera import Camera, Part
from alltrades.envs.rendering.ranges import Ranges

Style = Literal["plain", "simulator"]
PLAIN: Style = "plain"
SIMULATOR: Style = "simulator"


@dataclass(frozen=True)
class Rendering:
    """What is made of an environment beside its own fields: pictures, and parts of states.

    Attributes:
        cameras: by field.
        parts: by field.
        style: how pictures are drawn: "plain", without shadows, reflections, sky and smoothed
            edges; "simulator", with what the model says.
        ranges: what changes from episode to episode.
        backend: name of the GL library that draws.
    """

    cameras: Mapping[str, Camera] = field(default_factory=dict)
    parts: Mapping[str, Part] = field(default_factory=dict)
    style: Style = PLAIN
    ranges: Ranges = Ranges()
    backend: str = "auto"

    @property
    def images(self) -> dict[str, Field]:
        """Fields of pictures and depths."""
        made: dict[str, Field] = {}
        for name, camera in self.cameras.items():
            made |= camera.fields(name)
        return made

    @property
    def names(self) -> list[str]:
        """All fields that are made."""
        return [*self.parts, *self.images]

    def described(self) -> dict[str, object]:
        """What its pictures depend on, as plain values; the GL library draws the same within a
        rounding.
        """
        return {
            "cameras": {name: repr(camera) for name, camera in self.cameras.items()},
            "parts": {name: repr(part) for name, part in self.parts.items()},
            "style": self.style,
            "ranges": repr(self.ranges),
        }
