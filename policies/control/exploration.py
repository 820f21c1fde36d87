"""Tries again what failed: actions carry an offset that persists, so that another outcome is
reached.

Sampling noise alone hardly changes how an episode ends: a policy that stops short of a goal does so
every time. An offset that lasts for many steps moves the place where a feedback loop settles.
"""

from __future__ import annotations

import numpy as np

from alltrades.data.interface import Interface
from alltrades.policies.acting import ActingPolicy
from alltrades.policies.control.execution import Execution
from alltrades.system.streams import stream, stream_seed


class Exploration(Execution):
    """Adds to every action of a lane an offset, redrawn now and then.

    At each chunk, with probability `renew`, a new offset is drawn: normal in every dimension, with
    a scale drawn log-uniformly from `scale`, in units of half the action box (1 where the box is
    infinite or unknown). What leaves the box is clipped here: it is meant, and nothing that a guard
    should tell anybody about.

    Args:
        attempt: number of the try; the offsets are a function of (episode seed, attempt), as is the
            policy's noise. Attempt 0 explores nothing: it is the policy itself.
        scale: smallest and largest standard deviation.
        renew: chance of a new offset per chunk; 0 keeps one for the whole episode.
    """

    def __init__(self, attempt: int, scale: tuple[float, float], renew: float = 0.0) -> None:
        self.attempt, self.scale, self.renew = attempt, scale, renew
        self._box: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # lane -> (A_env,) low, high
        self._offset: dict[int, np.ndarray] = {}  # lane -> (A_env,) float32
        self._rng: dict[int, np.random.Generator] = {}

    def noise_seed(self, seed: int) -> int:
        return stream_seed(seed, "try", self.attempt) if self.attempt else seed

    def begin(self, lane: int, environment: Interface, seed: int) -> None:
        low, high = environment.action.box
        self._box[lane] = low.astype(np.float32), high.astype(np.float32)
        self._rng[lane] = stream(seed, "exploration", self.attempt)
        self._draw(lane)

    def _draw(self, lane: int) -> None:
        half = (self._box[lane][1] - self._box[lane][0]) / 2  # (A_env,)
        rng, (low, high) = self._rng[lane], self.scale
        size = np.exp(rng.uniform(np.log(low), np.log(high)))
        offset = np.zeros(len(half))
        if self.attempt:
            offset = size * rng.standard_normal(len(half)) * np.where(np.isfinite(half), half, 1.0)
        self._offset[lane] = offset.astype(np.float32)

    def actions(self, lane: int, chunk: np.ndarray, policy: ActingPolicy) -> np.ndarray:
        if self.renew and self._rng[lane].random() < self.renew:
            self._draw(lane)
        explored = super().actions(lane, chunk, policy) + self._offset[lane]  # (k, A_env)
        return np.clip(explored, *self._box[lane]) if self.attempt else explored
