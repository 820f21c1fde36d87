"""Temporal ensembling: overlapping chunks vote on every action (ACT, Zhao et al. 2023, algorithm
2).
"""

from __future__ import annotations

import numpy as np

from alltrades.data.interface import Interface
from alltrades.errors import UserError
from alltrades.policies.acting import ActingPolicy
from alltrades.policies.control.execution import Execution


class Ensembling(Execution):
    """Plans every `every` steps and executes the weighted mean of all predictions of a step.

    The weight of a prediction is exp(-m i), where i = 0 is the oldest chunk that reaches the step.
    The published choice is a plan at every step and m = 0.01: nearly the plain mean. A larger m
    trusts the oldest chunk more; a negative one the newest.

    Args:
        m: decay of the weights with the number of the chunk.
        every: steps between two plans, at most the policy's horizon.
    """

    def __init__(self, m: float = 0.01, every: int = 1) -> None:
        self.m, self.every = m, every
        self._chunks: dict[int, list[np.ndarray]] = {}  # what is left of each, oldest first

    def check(self, policy: ActingPolicy) -> None:
        """Raise UserError for an `every` out of range or an `m` that is not finite."""
        if not 1 <= self.every <= policy.horizon or not np.isfinite(self.m):
            raise UserError(
                f"ensemble of m = {self.m}, every = {self.every}; expected a finite m and a plan "
                f"every 1 to {policy.horizon} steps"
            )

    def begin(self, lane: int, environment: Interface, seed: int) -> None:
        self._chunks[lane] = []

    def actions(self, lane: int, chunk: np.ndarray, policy: ActingPolicy) -> np.ndarray:
        """While the operator holds the robots, what was planned before has no vote, nor this chunk
        later.
        """
        before = [] if policy.held else [c for c in self._chunks[lane] if len(c)]
        chunks = [*before, chunk]
        out = np.empty((self.every, chunk.shape[1]), np.float32)
        for step in range(self.every):
            votes = np.stack([c[step] for c in chunks if len(c) > step])  # (n, A_env), oldest first
            votes = (
                votes[np.isfinite(votes).all(axis=1)]
                if np.isfinite(votes).all(axis=1).any()
                else votes[-1:]
            )
            decay = -self.m * np.arange(len(votes))
            weights = np.exp(decay - decay.max())  # the largest is 1, whatever m
            out[step] = weights / weights.sum() @ votes
        self._chunks[lane] = [] if policy.held else [c[self.every :] for c in chunks]
        return out
