"""What changes in the pictures of one episode, drawn from its seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from alltrades.system.streams import stream


@dataclass(frozen=True)
class Ranges:
    """How far pictures may change from episode to episode; the defaults change nothing.

    Attributes:
        camera_position: metres that a camera is moved by at most, along each axis.
        camera_angle: degrees that it is turned by at most, about each axis.
        light: least and most factor of the brightness of each light.
        colors: most that is added to or taken from red, green and blue of each thing, of 1.
        textures: chance of each thing to wear another of the model's materials, or none.
        distractors: most things that lie about and do not belong to the scene.
    """

    camera_position: float = 0.0
    camera_angle: float = 0.0
    light: tuple[float, float] = (1.0, 1.0)
    colors: float = 0.0
    textures: float = 0.0
    distractors: int = 0


@dataclass(frozen=True)
class Distractor:
    """A thing that does not belong to the scene.

    at: place in a picture, in [-1, 1] of its half width and height. round: a ball, else a box.
    size: half, as a share of half the picture's height. rgb: in [0, 1]. turn: radians.
    """

    at: tuple[float, float]
    round: bool
    size: float
    rgb: tuple[float, float, float]
    turn: float


@dataclass(frozen=True)
class Changes:
    """What changes in one episode.

    shift, turn: (3,) metres and radians by camera. light: (L,) factors. geoms, sites: (N, 3) added
    to colours. materials: (G,) index of the material that a geom wears, -1 for none, -2 as it is.
    """

    shift: dict[str, np.ndarray]
    turn: dict[str, np.ndarray]
    light: np.ndarray
    geoms: np.ndarray
    sites: np.ndarray
    materials: np.ndarray
    distractors: tuple[Distractor, ...]


LIGHTS = 32


def drawn(ranges: Ranges, seed: int, names: list[str], sizes: tuple[int, int, int]) -> Changes:
    """The changes of the episode of `seed`: equal for equal seeds, ranges and models, whichever
    of the cameras `names` are drawn.

    sizes: geoms, sites and materials of the model.
    """
    geoms, sites, materials = sizes

    def part(name: str) -> np.random.Generator:
        return stream(seed, "rendering", name)

    cameras = {name: part(f"camera {name}") for name in names}
    angle = np.deg2rad(ranges.camera_angle)
    color, other, things = part("colors"), part("textures"), part("distractors")
    worn = np.where(other.random(geoms) < ranges.textures, other.integers(-1, materials, geoms), -2)
    count = int(things.integers(0, ranges.distractors + 1))
    return Changes(
        {n: g.uniform(-1, 1, 3) * ranges.camera_position for n, g in cameras.items()},
        {n: g.uniform(-1, 1, 3) * angle for n, g in cameras.items()},
        part("light").uniform(*ranges.light, LIGHTS),
        color.uniform(-1, 1, (geoms, 3)) * ranges.colors,
        color.uniform(-1, 1, (sites, 3)) * ranges.colors,
        worn,
        tuple(_distractor(things) for _ in range(count)),
    )


def _distractor(rng: np.random.Generator) -> Distractor:
    x, y = rng.uniform(-0.9, 0.9, 2)
    r, g, b = rng.uniform(0, 1, 3)
    return Distractor(
        (float(x), float(y)),
        bool(rng.random() < 0.5),
        float(rng.uniform(0.04, 0.1)),
        (float(r), float(g), float(b)),
        float(rng.uniform(0, np.pi)),
    )
