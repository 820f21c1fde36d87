"""Cameras and parts of states, as environments declare them. Nothing is imported to draw."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from alltrades.data.fields import Field

OWN = "render()"
FREE = "free"
IMAGES, DEPTH = "images.", "depth."
LARGEST = 4096  # pixels of a side


@dataclass(frozen=True)
class Pose:
    """Where a camera is that the model does not have.

    Attributes:
        position, target: where it stands and what it looks at, (x, y, z) in metres; of the world,
            or of `body`.
        up: direction that is up in the picture.
        fovy: vertical field of view in degrees.
        body: name of a body of the model that it is fixed to, such as a hand.

    Raises ValueError for a camera that looks nowhere.
    """

    position: tuple[float, float, float]
    target: tuple[float, float, float]
    up: tuple[float, float, float] = (0.0, 0.0, 1.0)
    fovy: float = 45.0
    body: str | None = None

    def __post_init__(self) -> None:
        for name in ("position", "target", "up"):
            object.__setattr__(self, name, tuple(map(float, getattr(self, name))))
        if {len(self.position), len(self.target), len(self.up)} != {3}:
            raise ValueError("a camera's position, target and up; expected three numbers each")
        if not 0 < self.fovy < 180:
            raise ValueError(f"a camera's fovy is {self.fovy}; expected degrees in (0, 180)")
        forward = np.subtract(self.target, self.position)
        if np.linalg.norm(np.cross(forward, self.up)) < 1e-9:
            raise ValueError(
                f"a camera at {self.position} looks at {self.target} with {self.up} up; expected "
                "another target than its place, and an up that is not along its view"
            )


@dataclass(frozen=True)
class Camera:
    """A camera that an environment has.

    Attributes:
        at: name of a camera of the MuJoCo model, "free" for the view that MuJoCo's own viewer
            begins with, a `Pose`, or `Camera.own`: what the environment's `render()` returns.
        height, width: of the picture, in pixels.
        depth: whether it measures depth too (see `fields`).

    Raises ValueError for sizes that no picture has.
    """

    at: str | Pose
    height: int = 64
    width: int = 64
    depth: bool = False

    def __post_init__(self) -> None:
        if not (1 <= self.height <= LARGEST and 1 <= self.width <= LARGEST):
            raise ValueError(
                f"a camera of {self.height} x {self.width} pixels; expected 1 to {LARGEST} each"
            )
        if self.own_picture and self.depth:
            raise ValueError("render() returns no depth; expected depth=False of such a camera")

    @classmethod
    def own(cls, height: int, width: int) -> Camera:
        """The picture that the environment's own `render()` returns."""
        return cls(OWN, height, width)

    @property
    def own_picture(self) -> bool:
        """Whether the environment draws it itself."""
        return self.at == OWN

    def of_size(self, height: int, width: int, depth: bool) -> Camera:
        """The same with other pictures; `depth` adds depth where it can be measured."""
        depth = (depth and not self.own_picture) or self.depth
        return replace(self, height=height, width=width, depth=depth)

    def fields(self, name: str) -> dict[str, Field]:
        """The fields that it makes: (H, W, 3) of uint8 under its name, and where it measures depth
        "depth.top" beside "images.top", (H, W, 1) of uint16 in mm, 0 where nothing is.
        """
        made = {name: Field.image(self.height, self.width)}
        return made | ({depth_of(name): Field.depth(self.height, self.width)} if self.depth else {})


def depth_of(name: str) -> str:
    """The field of a camera's depth."""
    return DEPTH + name.removeprefix(IMAGES)


@dataclass(frozen=True)
class Part:
    """Some numbers of a state as a field of their own, such as what a robot knows of itself.

    Attributes:
        columns: places of its numbers in the state.
        of: name of the state.
    """

    columns: tuple[int, ...]
    of: str = "state"

    def field(self, state: Field) -> Field:
        """The field that it is, with the names, units and bounds of its numbers.

        Raises ValueError for places that the state does not have.
        """
        size = state.shape[0] if state.kind == "state" else 0
        wrong = [c for c in self.columns if not 0 <= c < size]
        if wrong or not self.columns or len(set(self.columns)) < len(self.columns):
            raise ValueError(
                f"columns {list(self.columns)} of a {state}; expected some from 0 to {size - 1}, "
                "each once"
            )
        facts = {}
        for name in ("names", "units", "low", "high"):
            value = getattr(state, name)
            facts[name] = None if value is None else tuple(value[c] for c in self.columns)
        return Field.state(len(self.columns), state.dtype, **facts)
