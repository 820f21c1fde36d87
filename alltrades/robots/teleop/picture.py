"""What the window shows of an observation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

NUMBERS = 8  # of a state that are shown


def tiled(observation: Mapping[str, Any] | None) -> np.ndarray | None:
    """The images (H, W, C) of an observation beside one another, (H, W, 3) uint8; None where it has
    none.
    """
    images = [_coloured(v) for v in (observation or {}).values() if np.ndim(v) == 3]
    if not images:
        return None
    height = max(len(image) for image in images)
    return np.concatenate([_as_high(image, height) for image in images], axis=1)


def _coloured(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8: floats from [0, 1], depth by its own range."""
    if image.dtype == np.uint16:
        image = image / max(1, int(image.max()))
    if image.dtype.kind == "f":
        image = (255 * np.clip(image, 0, 1)).astype(np.uint8)
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image[..., :3]


def _as_high(image: np.ndarray, height: int) -> np.ndarray:
    """Enlarged to a height, without interpolation."""
    h, w = image.shape[:2]
    rows = np.arange(height) * h // height
    columns = np.arange(max(1, w * height // h)) * h // height
    return image[rows][:, np.minimum(columns, w - 1)]


def in_words(observation: Mapping[str, Any] | None) -> list[str]:
    """Its texts, and its numbers, a line for each field."""
    out = []
    for name, value in (observation or {}).items():
        if isinstance(value, str):
            out.append(f"{name}: {value}")
        elif np.ndim(value) == 1:
            more = " ..." if len(value) > NUMBERS else ""
            out.append(f"{name}: {' '.join(f'{v:.3f}' for v in value[:NUMBERS])}{more}")
    return out
