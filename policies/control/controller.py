"""Runs a policy in many lanes at once, one chunk after another: for evaluation and for robots that
can wait for it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from alltrades.data.interface import ActionSpec
from alltrades.policies.control.guard import ActionGuard
from alltrades.policies.control.lanes import BATCH, ActingPolicy, Lanes, Overlap


class Controller(Lanes):
    """Synchronous: a lane whose actions are used up waits for its next chunk. See `Lanes` for the
    arguments.

    Simulation: `begin(lane, ...)`, then `plan` with the new frames of the lanes that need a chunk.
    Deployment: `reset(...)`, then `act` at every control step.
    """

    def __init__(
        self,
        policy: ActingPolicy,
        lanes: int = 1,
        guard: bool | ActionGuard | Mapping[str, ActionSpec] = True,
        batch: int = BATCH,
    ) -> None:
        super().__init__(policy, lanes, guard, batch)
        self._frames: list[list[np.ndarray]] = [
            [] for _ in range(lanes)
        ]  # of act(), since the last plan

    def begin(self, lane: int, environment: str, seed: int) -> None:
        super().begin(lane, environment, seed)
        self._frames[lane].clear()

    # ---- simulation ------------------------------------------------------------------------------
    def plan(self, frames: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
        """Next actions of the lanes that ask.

        Args:
            frames: per lane (k, obs_dim of its environment), k >= 1: observations since its last
                plan, oldest first.

        Returns per lane (n_action_steps, action_dim of its environment) float32 in environment
        units, guarded. The history before an episode's first frame is that frame, as in training.
        """
        arrays = {lane: np.asarray(new, dtype=np.float32) for lane, new in frames.items()}
        return {
            lane: self._leave(lane, actions) for lane, actions in self._propose(arrays, {}).items()
        }

    def _propose(
        self, arrays: Mapping[int, np.ndarray], overlaps: Mapping[int, Overlap]
    ) -> dict[int, np.ndarray]:
        """Checks and pushes the frames, calls the policy: per lane the actions that it is to
        execute, not guarded yet.

        A lane whose chunk is to fit actions that are decided already gets the whole horizon.
        """
        for lane, new in arrays.items():
            self._check(lane, new)
        for lane, new in arrays.items():
            self._push(lane, new)
            self._frames[lane].clear()  # they are in the history, even if the policy fails
        out: dict[int, np.ndarray] = {}
        asking = list(arrays)
        for start in range(0, len(asking), self.batch):
            lanes = asking[start : start + self.batch]
            chunks = self.policy.act(*self._inputs(lanes, overlaps))  # (batch, horizon, A)
            for lane, chunk in zip(lanes, chunks):
                chunk = chunk[:, : self._action_dims[lane]].copy()
                out[lane] = chunk if lane in overlaps else self._part(lane, chunk)
        return out

    def _part(self, lane: int, chunk: np.ndarray) -> np.ndarray:
        """Actions to execute (k, A_env) of a new chunk (horizon, A_env)."""
        return chunk[: self.policy.n_action_steps]

    # ---- deployment ------------------------------------------------------------------------------
    def act(self, observation: np.ndarray | Mapping[int, np.ndarray]) -> np.ndarray:
        """One control step: observation (lanes, obs_dim), or lane -> (obs_dim,) for some lanes, ->
        (lanes, action_dim).

        A lane plans when its queue of actions is empty. Rows of lanes that were not given, and
        dimensions that an environment does not have, are 0. A lane that was never reset starts by
        itself when the policy has one environment.
        """
        rows = self._observed(observation)  # all are checked before any is used
        asking: dict[int, np.ndarray] = {}
        for lane, row in rows.items():
            self._frames[lane].append(row)
            if not self._queues[lane]:
                asking[lane] = np.stack(self._frames[lane])
        if asking:
            for lane, actions in self._propose(asking, {}).items():
                self._queues[lane] = list(actions[::-1])
        out = np.zeros((self.lanes, self.policy.action_dim), dtype=np.float32)
        for lane in rows:
            action = self._leave(lane, self._queues[lane].pop()[None])[0]
            out[lane, : len(action)] = action
        return out
