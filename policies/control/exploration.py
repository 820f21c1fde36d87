"""Tries again what failed: a controller whose actions carry an offset that persists, so that
another outcome is reached.

Sampling noise alone hardly changes how an episode ends: a policy that stops short of a goal does so
every time. An offset that lasts for many steps moves the place where a feedback loop settles.
"""

from __future__ import annotations

import numpy as np

from alltrades.policies.control.controller import Controller
from alltrades.policies.control.lanes import ActingPolicy
from alltrades.system.streams import stream, stream_seed


class ExploringController(Controller):
    """A controller that adds to every action of a lane an offset, redrawn now and then.

    At each chunk, with probability `renew`, a new offset is drawn: normal in every dimension, with
    a scale drawn log-uniformly from `scale`, in units of half the action box (1 where the box is
    infinite). What leaves the box is clipped here: it is meant, and nothing that a guard should
    tell anybody about.

    Args:
        attempt: number of the try; the offsets are a function of (episode seed, attempt), as is the
            policy's noise. Attempt 0 explores nothing: it is the policy itself.
        scale: smallest and largest standard deviation.
        renew: chance of a new offset per chunk; 0 keeps one for the whole episode.
    """

    def __init__(
        self,
        policy: ActingPolicy,
        lanes: int,
        attempt: int,
        scale: tuple[float, float],
        renew: float = 0.0,
        batch: int = 8,
    ) -> None:
        super().__init__(policy, lanes, batch=batch)
        self.attempt, self.scale, self.renew = attempt, scale, renew
        self._offset = np.zeros((lanes, policy.action_dim), dtype=np.float32)
        self._rng: list[np.random.Generator] = [np.random.default_rng()] * lanes

    def begin(self, lane: int, environment: str, seed: int) -> None:
        word = stream_seed(seed, "try", self.attempt)
        super().begin(lane, environment, word if self.attempt else seed)
        self._rng[lane] = stream(seed, "exploration", self.attempt)
        self._draw(lane)

    def _draw(self, lane: int) -> None:
        info = self.policy.environments[self._environment[lane]]
        half = (
            np.asarray(info.action.high, np.float32) - np.asarray(info.action.low, np.float32)
        ) / 2  # (A_env,)
        rng, (low, high) = self._rng[lane], self.scale
        size = np.exp(rng.uniform(np.log(low), np.log(high)))
        self._offset[lane] = 0.0
        if self.attempt:
            self._offset[lane, : len(half)] = (
                size * rng.standard_normal(len(half)) * np.where(np.isfinite(half), half, 1.0)
            )

    def _part(self, lane: int, chunk: np.ndarray) -> np.ndarray:
        if self.renew and self._rng[lane].random() < self.renew:
            self._draw(lane)
        info = self.policy.environments[self._environment[lane]]
        explored = (
            super()._part(lane, chunk) + self._offset[lane, : self._action_dims[lane]]
        )  # (n_action_steps, A_env)
        return (
            np.clip(explored, np.float32(info.action.low), np.float32(info.action.high))
            if self.attempt
            else explored
        )
