"""Steps of many episodes as flat arrays in memory: what training and weighing read."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Steps:
    """S steps of E episodes, one after another.

    observation (S, D) f32 and action (S, A) f32, zero-padded to the largest environment; success
    (S,) bool; ends (E,) one past each episode's last step. Per episode: environment, source (str),
    seed (uint64), episode_success (bool), first_success (steps until success, -1 for none),
    has_actions (bool).
    """

    observation: np.ndarray
    action: np.ndarray
    success: np.ndarray
    ends: np.ndarray
    environment: np.ndarray
    source: np.ndarray
    seed: np.ndarray
    episode_success: np.ndarray
    first_success: np.ndarray
    has_actions: np.ndarray

    @cached_property
    def lengths(self) -> np.ndarray:
        """(E,) steps of each episode."""
        return np.diff(self.ends, prepend=0)

    @cached_property
    def starts(self) -> np.ndarray:
        """(E,) first step of each episode."""
        return self.ends - self.lengths

    @cached_property
    def episode_of_step(self) -> np.ndarray:
        """(S,) episode of each step."""
        return np.repeat(np.arange(len(self.ends)), self.lengths)

    def select(self, episodes: np.ndarray) -> Steps:
        """The episodes where the mask (E,) is true."""
        episodes = np.asarray(episodes, dtype=bool)
        rows = episodes[self.episode_of_step]
        columns = {f.name: getattr(self, f.name)[episodes] for f in fields(self)[4:]}
        return Steps(
            self.observation[rows],
            self.action[rows],
            self.success[rows],
            np.cumsum(self.lengths[episodes]),
            **columns,
        )

    def digest(self) -> str:
        """Hash of everything: equal for equal episodes in equal order."""
        h = hashlib.sha256()
        for f in fields(self):
            value = np.ascontiguousarray(getattr(self, f.name))
            h.update(f"{f.name}{value.shape}".encode())
            h.update("\0".join(value).encode() if value.dtype.kind == "U" else value.tobytes())
        return h.hexdigest()[:16]

    @staticmethod
    def concatenate(parts: Sequence[Steps]) -> Steps:
        """All episodes of `parts`, in order; widths are zero-padded to the largest."""
        widths = [
            max(getattr(p, name).shape[1] for p in parts) for name in ("observation", "action")
        ]
        offsets = np.cumsum([0, *(len(p.observation) for p in parts)])
        flat = {
            "observation": np.concatenate([_pad(p.observation, widths[0]) for p in parts]),
            "action": np.concatenate([_pad(p.action, widths[1]) for p in parts]),
            "ends": np.concatenate([p.ends + o for p, o in zip(parts, offsets)]),
        }
        rest = {
            f.name: np.concatenate([getattr(p, f.name) for p in parts])
            for f in fields(Steps)
            if f.name not in flat
        }
        return Steps(**flat, **rest)


def _pad(x: np.ndarray, width: int) -> np.ndarray:
    return x if x.shape[1] == width else np.pad(x, ((0, 0), (0, width - x.shape[1])))
