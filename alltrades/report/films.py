"""Strips of small pictures, and moving ones: what cameras saw of an episode, and where in them a
policy looks.
"""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from alltrades.errors import MissingExtra
from alltrades.report.view.pictures import SIDE, colours, image_library, strip

if TYPE_CHECKING:
    from alltrades.policies.learning.saliency import Saliency

HEAT = np.array([255.0, 40.0, 0.0])  # colour of what changes the actions most
GAP = 4  # pixels between pictures
FRAMES = 10  # of a film
FILM_BYTES = 2**17
SHOWN = 96  # pixels of the longer side of each, at least about
MOVING, FASTEST = 150, 20.0  # pictures of an animation, at most, and of a second
UNKNOWN_HZ = 10.0  # where an environment does not say its rate


def drawable() -> bool:
    """Whether the extra `report` is installed, which draws."""
    try:
        image_library()
    except MissingExtra:
        return False
    return True


def film_strip(frames: np.ndarray) -> dict[str, Any]:
    """Some of an episode's pictures (T, H, W, C), evenly spread, side by side, as data of a page;
    which steps they are, what black and white are where they are no colours, and how wide, in
    pixels, it is shown.
    """
    steps = np.unique(np.linspace(0, len(frames) - 1, FRAMES).round().astype(int))
    made = strip(frames[steps], steps, FILM_BYTES)
    scale = max(1, SHOWN // max(made.width, made.height))
    width = scale * made.width * len(made.steps)
    return {"url": made.url, "steps": made.steps.tolist(), "note": made.note, "width": width}


def animation(cameras: Sequence[np.ndarray], hz: float | None) -> bytes:
    """A moving GIF of an episode as its cameras saw it, side by side.

    Args:
        cameras: pictures (T, H, W, C) of each.
        hz: pictures of an episode per second; None where nothing says it.

    Pictures are left out so that there are at most `MOVING`, and no more than viewers show.
    """
    pillow = image_library()
    shown = [colours(frames)[0] for frames in cameras]
    every = max(1, math.ceil(len(shown[0]) / MOVING), math.ceil((hz or UNKNOWN_HZ) / FASTEST))
    steps = [*range(0, len(shown[0]), every)]
    height = max(SHOWN, *(f.shape[1] for f in shown))
    pages = []
    for step in steps:
        each = [
            pillow.fromarray(np.ascontiguousarray(f[step])).resize(
                (round(f.shape[2] * height / f.shape[1]), height), pillow.NEAREST
            )
            for f in shown
        ]
        whole = pillow.new("RGB", (sum(p.width for p in each) + GAP * (len(each) - 1), height))
        left = 0
        for picture in each:
            whole.paste(picture, (left, 0))
            left += picture.width + GAP
        pages.append(whole)
    out, seconds = BytesIO(), every / (hz or UNKNOWN_HZ)
    pages[0].save(
        out, "gif", save_all=True, append_images=pages[1:], duration=round(1000 * seconds), loop=0
    )
    return out.getvalue()


def of_saliency(own: Saliency) -> dict[str, str]:
    """A saliency picture as data of a page, and what red is."""
    data, note = saliency_png(own)
    return {"url": data_url(data), "note": note}


def data_url(png: bytes) -> str:
    """A picture as data of a page."""
    return f"data:image/png;base64,{b64encode(png).decode()}"


def saliency_png(own: Saliency) -> tuple[bytes, str]:
    """A strip of frames above the same with what changes the actions in red, the mean of all frames
    last; and what red is.

    Red is as strong as the root of the change is, over that of the greatest one.
    """
    pillow = image_library()
    frames, _ = colours(own.frames)
    frames = np.concatenate([frames, frames.astype(np.float64).mean(0)[None].astype(np.uint8)])
    maps = np.concatenate([own.maps, own.mean[None]])
    most = float(own.maps.max())
    height, width = frames.shape[1:3]
    scale = max(1, SIDE // max(height, width))
    grey = frames.astype(np.float64).mean(-1, keepdims=True)
    heat = np.sqrt(maps / most)[..., None] if most > 0 else np.zeros((*maps.shape, 1))
    drawn = np.rint((1 - 0.8 * heat) * grey + 0.8 * heat * HEAT).astype(np.uint8)
    whole = pillow.new("RGB", (len(frames) * (width * scale + GAP), 2 * (height * scale + GAP)))
    whole.paste((255, 255, 255), (0, 0, *whole.size))
    for k, pair in enumerate(zip(frames, drawn)):
        for row, frame in enumerate(pair):
            picture = pillow.fromarray(np.ascontiguousarray(frame))
            picture = picture.resize((width * scale, height * scale), pillow.NEAREST)
            whole.paste(picture, (k * (width * scale + GAP), row * (height * scale + GAP)))
    out = BytesIO()
    whole.save(out, "png", optimize=True)
    note = f"reddest: hiding it changes the actions by {most:.3f} of their variance"
    return out.getvalue(), note if most > 0 else "hiding any part of it changes no action"
