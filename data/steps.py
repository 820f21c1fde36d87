"""Steps of many episodes, one after another: what training and weighing read."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np

from alltrades.data.rows import Rows


@dataclass(frozen=True)
class Steps:
    """S steps of E episodes, one after another.

    observation (S, D) f32 and action (S, A) f32, zero-padded to the largest environment, are rows
    that need not be in memory (an array that is given becomes rows); success (S,) bool; ends (E,)
    one past each episode's last step. Per episode: environment, source (str), seed (uint64),
    episode_success (bool), first_success (steps until success, -1 for none), has_actions (bool).
    """

    observation: Rows
    action: Rows
    success: np.ndarray
    ends: np.ndarray
    environment: np.ndarray
    source: np.ndarray
    seed: np.ndarray
    episode_success: np.ndarray
    first_success: np.ndarray
    has_actions: np.ndarray

    def __post_init__(self) -> None:
        for name in ("observation", "action"):
            object.__setattr__(self, name, Rows.of(getattr(self, name)))

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
        """(S,) int32, episode of each step."""
        return np.repeat(np.arange(len(self.ends), dtype=np.int32), self.lengths)

    def select(self, episodes: np.ndarray) -> Steps:
        """The episodes where the mask (E,) is true; observations and actions are not copied."""
        episodes = np.asarray(episodes, dtype=bool)
        rows = np.repeat(episodes, self.lengths)
        columns = {f.name: getattr(self, f.name)[episodes] for f in fields(self)[4:]}
        return Steps(
            self.observation.select(rows),
            self.action.select(rows),
            self.success[rows],
            np.cumsum(self.lengths[episodes]),
            **columns,
        )

    def digest(self) -> str:
        """Hash of everything: equal for equal episodes in equal order. O(bytes), in pieces."""
        h = hashlib.sha256()
        for f in fields(self):
            value = getattr(self, f.name)
            h.update(f"{f.name}{value.shape}".encode())
            if isinstance(value, Rows):
                for piece in value.pieces():
                    h.update(piece.tobytes())
            else:
                h.update("\0".join(value).encode() if value.dtype.kind == "U" else value.tobytes())
        return h.hexdigest()[:16]

    @staticmethod
    def concatenate(parts: Sequence[Steps]) -> Steps:
        """All episodes of `parts`, in order; widths are zero-padded to the largest."""
        offsets = np.cumsum([0, *(len(p.observation) for p in parts)])
        return Steps(
            Rows.concatenate([p.observation for p in parts]),
            Rows.concatenate([p.action for p in parts]),
            ends=np.concatenate([p.ends + o for p, o in zip(parts, offsets)]),
            **{
                f.name: np.concatenate([getattr(p, f.name) for p in parts])
                for f in fields(Steps)
                if f.name not in ("observation", "action", "ends")
            },
        )
