"""Changes of pictures as they are seen, whoever drew them: drawn from the episode's seed, the same
in all of its steps, another for each camera.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from alltrades.data.fields import Field, Observation
from alltrades.envs.rendering.camera import DEPTH, IMAGES
from alltrades.system.streams import stream

SHIFT = (0.06, 0.12)  # share of the sides by which a picture is moved
DIM, BRIGHT = (0.45, 0.7), (1.3, 1.6)  # factors of brightness
COLORS = (0.5, 1.5)  # factors of red, green and blue
PATCH = (0.25, 0.35)  # share of the sides that is hidden
THING = (0.07, 0.12)  # half size of a thing, as a share of the smaller side
Change = Callable[[np.ndarray], np.ndarray]


class Disturbed:
    """The pictures of one episode, changed in one of the ways of `PICTURES`.

    Args:
        kind: which. seed: of the episode. fields: those that are seen, by name; only images change.

    Depth keeps its millimetres: it is moved and covered, and has neither light nor colours. A
    picture of one channel has no colours. A frame that is all zeros is missing, and stays so.
    """

    def __init__(self, kind: str, seed: int, fields: Mapping[str, Field]) -> None:
        self._kind, self._seed = kind, seed
        self._fields = {name: f for name, f in fields.items() if changes(kind, f)}
        self._changes: dict[str, Change] = {}

    def __call__(self, seen: Observation) -> Observation:
        """An observation with its pictures changed; arrays that are given stay as they are."""
        out = dict(seen)
        for name, f in self._fields.items():
            frame = seen.get(name)
            if isinstance(frame, np.ndarray) and frame.any():
                if name not in self._changes:
                    self._changes[name] = self._drawn(name, f)
                out[name] = self._changes[name](frame)
        return out

    def _drawn(self, name: str, f: Field) -> Change:
        camera = IMAGES + name.removeprefix(DEPTH) if name.startswith(DEPTH) else name
        return PICTURES[self._kind](stream(self._seed, "perturbation", self._kind, camera), f)


def changes(kind: str, f: Field) -> bool:
    """Whether a perturbation of this kind changes a field."""
    colours = f.kind == "image" and f.dtype != "uint16"
    needed = {"light": colours, "colors": colours and f.shape[-1] >= 3}
    return needed.get(kind, f.kind == "image")


def _shift(rng: np.random.Generator, f: Field) -> Change:
    height, width, _ = f.shape
    angle, far = rng.uniform(0, 2 * np.pi), rng.uniform(*SHIFT)
    down, right = round(far * height * np.sin(angle)), round(far * width * np.cos(angle))
    if down == right == 0:  # of tiny pictures
        right = 1
    rows = np.clip(np.arange(height) - down, 0, height - 1)
    columns = np.clip(np.arange(width) - right, 0, width - 1)
    return lambda frame: frame[rows][:, columns]


def _light(rng: np.random.Generator, f: Field) -> Change:
    factor = rng.uniform(*(DIM if rng.random() < 0.5 else BRIGHT))
    return partial(_scaled, f, np.full(3, factor, np.float32))


def _colors(rng: np.random.Generator, f: Field) -> Change:
    return partial(_scaled, f, rng.uniform(*COLORS, 3).astype(np.float32))


def _occlusion(rng: np.random.Generator, f: Field) -> Change:
    height, width, _ = f.shape
    sides = rng.uniform(*PATCH, 2)
    tall, wide = (max(1, round(s * n)) for s, n in zip(sides, (height, width)))
    top, left = rng.integers(height - tall + 1), rng.integers(width - wide + 1)
    mask = np.zeros((height, width), bool)
    mask[top : top + tall, left : left + wide] = True
    return partial(_painted, f, mask, np.full(3, rng.uniform(0.1, 0.9)))


def _distractor(rng: np.random.Generator, f: Field) -> Change:
    height, width, _ = f.shape
    y, x = rng.uniform(0.1, 0.9) * height, rng.uniform(0.1, 0.9) * width
    size = max(1.0, rng.uniform(*THING) * min(height, width))
    down, right = abs(np.arange(height) + 0.5 - y)[:, None], abs(np.arange(width) + 0.5 - x)
    mask = np.hypot(down, right) <= size
    if rng.random() < 0.5:
        mask = (down <= size) & (right <= size)
    return partial(_painted, f, mask, rng.uniform(0, 1, 3))


PICTURES: dict[str, Callable[[np.random.Generator, Field], Change]] = {
    "shift": _shift,
    "light": _light,
    "colors": _colors,
    "occlusion": _occlusion,
    "distractor": _distractor,
}


def _bounds(f: Field) -> tuple[float, float]:
    """Black and white of a picture that has colours."""
    if f.dtype == "uint8":
        return 0.0, 255.0
    low, high = (bound[0] if bound else end for bound, end in ((f.low, 0.0), (f.high, 1.0)))
    return (float(low), float(high)) if np.isfinite([low, high]).all() else (0.0, 1.0)


def _scaled(f: Field, factor: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """Colours times a factor of each channel (3,); opacity stays."""
    low, high = _bounds(f)
    out, colours = frame.copy(), min(3, frame.shape[2])
    x = (frame[..., :colours].astype(np.float32) - low) * factor[:colours] + low
    x = np.clip(x, low, high)
    out[..., :colours] = np.rint(x) if frame.dtype == np.uint8 else x
    return out


def _painted(f: Field, mask: np.ndarray, rgb: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """A frame with one colour, in [0, 1], where the mask (H, W) is; in depth something that is
    nearer than all that is seen.
    """
    out = frame.copy()
    if frame.dtype == np.uint16:
        out[mask] = max(1, int(frame[frame > 0].min()) // 2)
        return out
    low, high = _bounds(f)
    colours = min(3, frame.shape[2])
    value = low + (high - low) * (rgb if colours == 3 else rgb[:1])
    out[mask, :colours] = np.rint(value) if frame.dtype == np.uint8 else value
    return out
