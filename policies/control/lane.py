"""One lane: the history, noise and last actions of one episode."""

from __future__ import annotations

import numpy as np

from alltrades.data.interface import Interface
from alltrades.envs.rollouts.seeding import policy_generator


class Lane:
    """State of one episode, of which a controller runs several side by side.

    Attributes:
        index, interface: the episode's environment; None before the first episode.
        window: (n_obs_steps, obs_dim) float32 last observations, padded with zeros.
        generator: of the policy's noise; it advances only when the lane asks for a chunk.
        last: (1 or 2, A_env) last actions that were handed out, in order, or None.
        queue: planned actions (A_env,), next one last.
        seed: of the episode, -1 before the first.
    """

    def __init__(self, n_obs_steps: int, obs_dim: int) -> None:
        self.index = 0
        self.interface: Interface | None = None
        self.window = np.zeros((n_obs_steps, obs_dim), dtype=np.float32)
        self.generator = np.random.default_rng(0)
        self.last: np.ndarray | None = None
        self.queue: list[np.ndarray] = []
        self.seed = -1
        self._seen = False  # a frame of this episode is in the window

    def begin(self, index: int, interface: Interface, seed: int, noise_seed: int) -> None:
        """Start an episode: empty history and queue, noise from `noise_seed`."""
        self.index, self.interface, self.seed = index, interface, seed
        self.generator = policy_generator(noise_seed)
        self.window[:] = 0.0
        self.last, self._seen = None, False
        self.queue.clear()

    @property
    def environment(self) -> Interface:
        """Of the episode that runs."""
        assert self.interface is not None, "no episode has begun"
        return self.interface

    def push(self, frames: np.ndarray) -> None:
        """Take frames (k, obs_dim of the environment) into the history, oldest first. The history
        before an episode's first frame is that frame, as in training.
        """
        window = self.window[:, : frames.shape[1]]  # (n_obs_steps, D_env), a view
        if not self._seen:
            window[:] = frames[0]
            self._seen = True
        n_obs_steps = len(window)
        if len(frames) < n_obs_steps:
            window[: n_obs_steps - len(frames)] = window[len(frames) :].copy()
            window[n_obs_steps - len(frames) :] = frames
        else:
            window[:] = frames[-n_obs_steps:]

    def executed(self, actions: np.ndarray) -> None:
        """Note actions (k, A_env) that are executed next, one after another."""
        self.last = (
            actions[-2:]
            if self.last is None or len(actions) > 1
            else np.concatenate([self.last[-1:], actions])
        )
