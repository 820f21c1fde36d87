"""Pictures of another size."""

from __future__ import annotations

from functools import lru_cache

import numpy as np


def resized(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """A picture (H, W, C) of uint8 in another size: each pixel is the mean of the area that it
    covers, so that nothing thin is lost when it shrinks.
    """
    if picture.shape[:2] == (height, width):
        return picture.copy()
    rows, columns = _shares(picture.shape[0], height), _shares(picture.shape[1], width)
    wide = np.tensordot(rows, picture.astype(np.float32), (1, 0))  # (height, W, C)
    out = np.tensordot(wide, columns, (1, 1)).swapaxes(1, 2)  # (height, width, C)
    return np.ascontiguousarray(np.rint(np.clip(out, 0, 255)).astype(np.uint8))


@lru_cache(maxsize=32)
def _shares(before: int, after: int) -> np.ndarray:
    """(after, before) share of each pixel before in each pixel after."""
    edges = np.arange(after + 1) * (before / after)
    low, high = edges[:-1, None], edges[1:, None]
    pixels = np.arange(before)
    covered = np.clip(np.minimum(high, pixels + 1) - np.maximum(low, pixels), 0, None)
    return (covered / covered.sum(1, keepdims=True)).astype(np.float32)
