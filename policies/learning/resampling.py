"""Intervals over episodes of means of what was measured in each of them."""

from __future__ import annotations

import numpy as np
from scipy.special import stdtrit  # scipy.stats takes a second to import

from alltrades.system.streams import stream

RESAMPLES = 2000
BLOCK = 1024  # columns at once
TAILS = (0.025, 0.975)


class Resampling:
    """Bootstrap over E episodes, the same resamples for all that is measured in them."""

    def __init__(self, episodes: int) -> None:
        rng = stream(0, "bootstrap over episodes", episodes)
        self.counts = rng.multinomial(episodes, np.full(episodes, 1 / episodes), RESAMPLES).astype(
            np.float64
        )

    def intervals(self, values: np.ndarray) -> np.ndarray:
        """(2, ...) ends of 95 % intervals of the means over episodes of values (E, ...), NaN where
        fewer than two episodes have one; a NaN is an episode that has none.

        They hold both the bootstrap's quantiles, which see that errors have a long tail, and
        Student's t, which knows that few episodes say little.

        O(RESAMPLES x E) for each value of an episode.
        """
        flat = values.reshape(len(values), -1)
        blocks = [self._block(flat[:, i : i + BLOCK]) for i in range(0, flat.shape[1], BLOCK)]
        return np.concatenate(blocks, 1).reshape(2, *values.shape[1:])

    def _block(self, values: np.ndarray) -> np.ndarray:
        there = ~np.isnan(values)
        n = there.sum(0)  # (K,)
        known = np.where(there, values, 0.0)
        mean = known.sum(0) / np.maximum(n, 1)
        square = np.where(there, values - mean, 0.0) ** 2
        error = np.sqrt(square.sum(0) / np.maximum(n - 1, 1) / np.maximum(n, 1))
        half = stdtrit(np.maximum(n - 1, 1), TAILS[1]) * error
        weight = self.counts @ there  # (R, K)
        drawn = self.counts @ known / np.where(weight > 0, weight, np.nan)
        low, high = np.full((2, values.shape[1]), np.nan)
        some = n > 1
        if some.any():
            low[some], high[some] = np.nanquantile(drawn[:, some], TAILS, axis=0)
        return np.stack([np.fmin(low, mean - half), np.fmax(high, mean + half)]) + np.where(
            some, 0.0, np.nan
        )


def interval(values: np.ndarray) -> list[float] | None:
    """95 % interval of the mean of values (E,); None for fewer than two."""
    if len(values) < 2:
        return None
    low, high = Resampling(len(values)).intervals(values)
    return [float(low), float(high)]
