"""Pictures of which one part does not fit the other."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import maximum_filter1d, median_filter

from alltrades.data.checks.frames import Frames

SEAM = 1.5  # times what rows usually differ by, near that place
ALONE = 2.5  # times what the rows around it differ by
STRONG = 0.1  # of the usual spread of pixels
FLAT = 0.15  # of the rows that are equal one after another, and are not usually
AROUND = 4  # rows


class Torn:
    """A seam: two rows of pixels that differ more than there, or near, in nearly all pictures of
    the camera, and more than the rows around them. Or many rows that are equal to the last good
    one, as decoders leave them; or rows of the picture before, of a camera whose noise changes all.
    """

    def __init__(self, usual: Frames) -> None:
        self._enough = usual.rows.shape[1] >= 4 * AROUND
        if not self._enough:
            return
        high = np.quantile(usual.rows, 0.9, axis=0)
        self._limit = SEAM * maximum_filter1d(high, 2 * AROUND + 1)
        self._limit += STRONG * float(np.median(usual.spread))
        self._flat = _longest(usual.rows == 0)
        self._held = float(np.quantile(usual.held, 0.9))
        self._usual = float(np.quantile(self._flat, 0.9)) / usual.rows.shape[1]

    def of(self, frames: Frames) -> np.ndarray:
        """(n,) whether a picture is torn."""
        if not self._enough:
            return np.zeros(len(frames.rows), bool)
        rows = frames.rows
        around = median_filter(rows, size=(1, 2 * AROUND + 1), mode="nearest")
        seam = ((rows > self._limit) & (rows > ALONE * around)).any(1)
        flat = _longest(rows == 0) / rows.shape[1]
        mixed = (frames.held > self._held + FLAT) & (frames.held < 1)
        return seam | mixed | (flat > self._usual + FLAT)


def _longest(flags: np.ndarray) -> np.ndarray:
    """(n,) length of the longest run of true in each row of (n, m)."""
    run = np.zeros(len(flags), np.int64)
    best = np.zeros(len(flags), np.int64)
    for column in flags.T:
        run = np.where(column, run + 1, 0)
        np.maximum(best, run, out=best)
    return best
