"""Asking a policy for chunks: the arrays of a call, and its rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from alltrades.policies.acting import ActingPolicy
from alltrades.policies.control.lane import Lane


@dataclass(frozen=True)
class Overlap:
    """What is decided about a lane's next chunk before it is drawn (real-time chunking, Black et
    al. 2025).

    known (k, A_env), k <= horizon: finite actions of its first steps, in environment units. keep
    (k,) in [0, 1]: how much of each stays; 1 freezes it. noise (draws, horizon, A): in place of the
    lane's own, or None.
    """

    known: np.ndarray
    keep: np.ndarray
    noise: np.ndarray | None = None


class ChunkSource:
    """Calls the policy for lanes, always with `batch` rows.

    Rows are padded where fewer lanes ask, and the policy is called several times where more do:
    results of a matrix product may depend on the batch size in the last bit, and an episode must
    not depend on its neighbours.
    """

    def __init__(self, policy: ActingPolicy, batch: int) -> None:
        self.policy, self.batch = policy, batch

    def chunks(self, lanes: Sequence[Lane], overlaps: Sequence[Overlap | None]) -> list[np.ndarray]:
        """The next chunk (horizon, A_env) of each lane, not guarded."""
        out: list[np.ndarray] = []
        for start in range(0, len(lanes), self.batch):
            part = slice(start, start + self.batch)
            chunks = self.policy.act(*self.inputs(lanes[part], overlaps[part]))  # (batch, H, A)
            out += [self.own(lane, chunk) for lane, chunk in zip(lanes[part], chunks)]
        return out

    def own(self, lane: Lane, chunk: np.ndarray) -> np.ndarray:
        """What a chunk (k, A) holds for the lane's environment: (k, A_env), a copy."""
        return self.policy.layout.action(lane.index, chunk).copy()

    def inputs(self, lanes: Sequence[Lane], overlaps: Sequence[Overlap | None]) -> tuple[Any, ...]:
        """Arguments of `policy.act` for at most `batch` lanes, copied; rows beyond the lanes repeat
        the first.
        """
        window = self.policy.layout.empty(self.batch, frames=self.policy.n_obs_steps)
        environment = np.full(self.batch, lanes[0].index, dtype=np.int64)
        for row, lane in enumerate(lanes):
            environment[row] = lane.index
            lane.write(window, row)
            for said in lane.texts.values():
                self.policy.hear(said)
        if len(lanes) < self.batch:
            for values in window.values():
                values[len(lanes) :] = values[0]
        inputs = window, environment, self._noise(lanes, overlaps)
        if not any(overlaps):
            return inputs
        policy = self.policy
        known = np.zeros((self.batch, policy.horizon, policy.action_dim), np.float32)
        keep = np.zeros((self.batch, policy.horizon), np.float32)
        for row, overlap in enumerate(overlaps):
            if overlap is not None:
                k = len(overlap.known)
                known[row, :k] = policy.layout.pack_action(overlap.known)
                keep[row, :k] = overlap.keep
        return *inputs, known, keep

    def _noise(self, lanes: Sequence[Lane], overlaps: Sequence[Overlap | None]) -> np.ndarray:
        """(batch, draws, horizon, A) float32, each row from its lane's generator: as many numbers
        as its environment's actions need, whatever other environments the policy knows; zero
        elsewhere and in rows beyond the lanes.
        """
        shape = (self.policy.draws, self.policy.horizon, self.policy.action_dim)
        noise = np.zeros((self.batch, *shape), dtype=np.float32)
        for row, (lane, overlap) in enumerate(zip(lanes, overlaps)):
            if overlap is None or overlap.noise is None:
                own = int(self.policy.layout.action_dims[lane.index])
                noise[row, ..., :own] = lane.generator.standard_normal(
                    (*shape[:2], own), dtype=np.float32
                )
            else:
                noise[row] = overlap.noise
        return noise
