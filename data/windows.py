"""Which steps a training window holds: history before a step, action chunk from it on, masks at
both ends.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Window:
    """Indices into steps: obs_index (B, n_obs_steps), action_index (B, horizon); masks are False
    where an index was clamped.
    """

    obs_index: np.ndarray
    obs_mask: np.ndarray
    action_index: np.ndarray
    action_mask: np.ndarray


class WindowIndex:
    """Windows of any step of a set of episodes stored one after another.

    Args:
        ends: (E,) one past the last step of every episode, increasing.
        n_obs_steps: observation frames, the step's own being the last.
        horizon: actions, the step's own being the first.

    No window crosses an episode's end: history clamps to the first frame, the chunk to the last
    step. Memory O(E), a call O(B log E).
    """

    def __init__(self, ends: np.ndarray, n_obs_steps: int, horizon: int) -> None:
        if n_obs_steps < 1 or horizon < 1:
            raise ValueError(
                f"n_obs_steps = {n_obs_steps}, horizon = {horizon}; expected both >= 1"
            )
        self.ends = np.asarray(ends, dtype=np.int64)
        self.starts = np.concatenate([[0], self.ends[:-1]])
        self.before = np.arange(1 - n_obs_steps, 1)
        self.after = np.arange(horizon)

    def take(self, rows: np.ndarray) -> Window:
        """Windows of the steps `rows` (B,)."""
        rows = np.asarray(rows)
        obs = rows[:, None] + self.before  # (B, n_obs_steps)
        action = rows[:, None] + self.after  # (B, horizon)
        episode = np.searchsorted(self.ends, rows, side="right")[:, None]
        first, last = self.starts[episode], self.ends[episode] - 1
        return Window(
            np.maximum(obs, first), obs >= first, np.minimum(action, last), action <= last
        )

    def observed(self, rows: np.ndarray) -> np.ndarray:
        """Which steps (sum of lengths,) the windows of `rows` (B,) observe. O(steps + B (log E +
        n_obs_steps)).
        """
        out = np.zeros(int(self.ends[-1]) if len(self.ends) else 0, bool)
        first = self.starts[np.searchsorted(self.ends, rows, side="right")]
        for back in self.before:
            out[np.maximum(rows + back, first)] = True
        return out
