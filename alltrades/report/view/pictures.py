"""Pictures of cameras for eyes: 8-bit colours of what was recorded, and strips of small ones."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np

from alltrades.errors import MissingExtra

SIDE, LEAST = 160, 32  # pixels of the longer side of a small picture, and of the smallest
PLAIN = 64  # pixels up to which one is kept without loss
QUALITY = 80  # of JPEG


@dataclass(frozen=True)
class Strip:
    """Small pictures of some steps, side by side in one file.

    Attributes:
        steps: (n,) of which.
        url: the file itself.
        width, height: pixels of each.
        note: what black and white are, of pictures that are no colours.
    """

    steps: np.ndarray
    url: str
    width: int
    height: int
    note: str


def colours(frames: np.ndarray) -> tuple[np.ndarray, str]:
    """Pictures (n, H, W, 1, 3 or 4) of any dtype as (n, H, W, 3) uint8, and what black and white
    are where that is not plain: the least and the greatest value of these pictures. Depth of 0 is
    nothing seen, and black.
    """
    note, channels = "", frames.shape[3]
    if frames.dtype != np.uint8:
        finite = np.isfinite(frames)
        seen = finite & (frames > 0) if frames.dtype == np.uint16 else finite
        there = frames[seen]
        low, high = (float(there.min()), float(there.max())) if there.size else (0.0, 1.0)
        if frames.dtype.kind == "f" and 0 <= low and high <= 1:
            low, high = 0.0, 1.0
        else:
            note = f"{low:.4g} to {high:.4g}"
        scaled = (np.where(seen, frames, low).astype(np.float64) - low) / ((high - low) or 1.0)
        if frames.dtype == np.uint16:  # what is near is bright, and what was not seen black
            scaled = 0.1 + 0.9 * (1 - scaled)
        frames = np.where(seen, np.round(255 * scaled), 0).astype(np.uint8)
    shown = frames[..., :1] if channels in (1, 2) else frames[..., :3]
    return np.broadcast_to(shown, (*frames.shape[:3], 3)), note


def strip(frames: np.ndarray, steps: np.ndarray, most_bytes: int) -> Strip:
    """Pictures (n, H, W, C) of some steps (n,), of at most SIDE pixels, as one file; every second
    one is left out until it has at most `most_bytes`, and the last one becomes smaller, to LEAST
    pixels.

    Raises UserError where the extra `report` is not installed.
    """
    pillow = image_library()
    shown, note = colours(frames)
    height, width = shown.shape[1:3]
    shrink = min(1.0, SIDE / max(height, width))
    size = max(1, round(width * shrink)), max(1, round(height * shrink))
    small = [pillow.fromarray(np.ascontiguousarray(f)).resize(size, pillow.BOX) for f in shown]
    while True:
        data, kind = _joined(pillow, small, size)
        if len(data) <= most_bytes or (len(small) == 1 and max(size) <= LEAST):
            url = f"data:image/{kind};base64,{b64encode(data).decode()}"
            return Strip(steps, url, *size, note)
        if len(small) > 1:
            small, steps = small[::2], steps[::2]
        else:
            size = max(1, size[0] // 2), max(1, size[1] // 2)
            small = [small[0].resize(size, pillow.BOX)]


def _joined(pillow: Any, pictures: list[Any], size: tuple[int, int]) -> tuple[bytes, str]:
    width, height = size
    whole = pillow.new("RGB", (width * len(pictures), height))
    for k, picture in enumerate(pictures):
        whole.paste(picture, (k * width, 0))
    out = BytesIO()
    kind = "png" if max(size) <= PLAIN else "jpeg"
    whole.save(out, kind, quality=QUALITY, optimize=True)
    return out.getvalue(), kind


def image_library() -> Any:
    """PIL.Image; UserError where the extra `report` is not installed."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtra(
            f"pictures of cameras need pillow, found no {error.name}", "report"
        ) from error
    return Image
