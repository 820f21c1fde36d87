"""Temporal ensembling: overlapping chunks vote on every action (ACT, Zhao et al. 2023, algorithm
2).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from alltrades.data.interface import ActionSpec
from alltrades.errors import UserError
from alltrades.policies.control.controller import Controller
from alltrades.policies.control.guard import ActionGuard
from alltrades.policies.control.lanes import BATCH, ActingPolicy


class EnsemblingController(Controller):
    """A synchronous controller that plans every `every` steps and executes the weighted mean of all
    predictions of a step.

    The weight of a prediction is exp(-m i), where i = 0 is the oldest chunk that reaches the step.
    The published choice is a plan at every step and m = 0.01: nearly the plain mean. A larger m
    trusts the oldest chunk more; a negative one the newest.

    Args:
        policy, lanes, guard, batch: see `Lanes`.
        m: decay of the weights with the number of the chunk.
        every: steps between two plans, at most the policy's horizon.

    Raises UserError for an `every` out of range or an `m` that is not finite.
    """

    def __init__(
        self,
        policy: ActingPolicy,
        lanes: int = 1,
        guard: bool | ActionGuard | Mapping[str, ActionSpec] = True,
        batch: int = BATCH,
        *,
        m: float = 0.01,
        every: int = 1,
    ) -> None:
        if not 1 <= every <= policy.horizon or not np.isfinite(m):
            raise UserError(
                f"ensemble of m = {m}, every = {every}; expected a finite m and a plan every 1 to "
                f"{policy.horizon} steps"
            )
        super().__init__(policy, lanes, guard, batch)
        self.m, self.every = m, every
        self._chunks: list[list[np.ndarray]] = [
            [] for _ in range(lanes)
        ]  # what is left of each, oldest first

    def begin(self, lane: int, environment: str, seed: int) -> None:
        super().begin(lane, environment, seed)
        self._chunks[lane].clear()

    def _part(self, lane: int, chunk: np.ndarray) -> np.ndarray:
        held = getattr(
            self.policy, "held", False
        )  # by the operator: what was planned before has no vote, nor this chunk later
        chunks = [chunk] if held else [c for c in self._chunks[lane] if len(c)] + [chunk]
        out = np.empty((self.every, chunk.shape[1]), np.float32)
        for step in range(self.every):
            votes = np.stack([c[step] for c in chunks if len(c) > step])  # (n, A_env), oldest first
            votes = (
                votes[np.isfinite(votes).all(axis=1)]
                if np.isfinite(votes).all(axis=1).any()
                else votes[-1:]
            )
            weights = np.exp(-self.m * np.arange(len(votes)))
            out[step] = weights / weights.sum() @ votes
        self._chunks[lane] = [] if held else [c[self.every :] for c in chunks]
        return out
