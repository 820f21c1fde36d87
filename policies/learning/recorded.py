"""What operators did after states of held-out episodes, and how far other chunks are from it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from alltrades.data.interface import Interface
from alltrades.data.steps import Steps
from alltrades.policies.model.statistics import action_spread

PER_EPISODE = 32  # states at which chunks are predicted, evenly spread
MOST_EPISODES = 512  # that are judged, evenly spread
MOST_STATES = 4096  # in all
MOST_NUMBERS = 2**24  # of their chunks


@dataclass(frozen=True)
class Recorded:
    """What the operator did after n states of one environment's held-out episodes.

    Attributes:
        rows: (n,) steps. episode: (n,) of each.
        chunks: (n, H, A) actions as recorded. mask: (n, H), whether the episode goes on.
        last: (n, A) action before each.
        mean: (A,) of the actions that were learned from. std: (A,) of the same, 0 where the
            dimension stands still.
    """

    rows: np.ndarray
    episode: np.ndarray
    chunks: np.ndarray
    mask: np.ndarray
    last: np.ndarray
    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def of(cls, held_out: Steps, learned: Steps, interface: Interface, horizon: int) -> Recorded:
        """From episodes of one environment with actions: those to judge on, and those that were
        learned from. States are those after the first, which has no action before it; an episode
        of a single step holds the mean action. Where a policy acted nothing is judged.
        """
        size, count = interface.action_dim, len(held_out.ends)
        chosen = np.unique(np.linspace(0, count - 1, min(count, MOST_EPISODES)).round().astype(int))
        most = min(MOST_STATES, MOST_NUMBERS // (horizon * size))
        each = int(np.clip(most // len(chosen), 1, PER_EPISODE))
        overruled = held_out.overruled
        rows = np.concatenate(
            [
                start + _spread(n, each, None if overruled is None else overruled[start:][:n])
                for start, n in zip(held_out.starts[chosen], held_out.lengths[chosen])
            ]
        )
        episode = held_out.episode_of_step[rows]
        index = rows[:, None] + np.arange(horizon)
        mask = index < held_out.ends[episode][:, None]
        if overruled is not None:
            ended = overruled[np.minimum(index, len(overruled) - 1)]
            mask &= ~np.logical_or.accumulate(ended, axis=1)
        chunks = held_out.action.take(np.where(mask, index, rows[:, None]), size)
        found = action_spread(learned.action.resized(size), interface.action)
        whole = np.broadcast_to(found.still, (size // len(found.still), len(found.still)))
        actions = learned.action.load(size).astype(np.float64)
        std = np.where(whole.reshape(-1), 0.0, actions.std(0))
        mean, first = actions.mean(0), rows == held_out.starts[episode]
        last = held_out.action.take(np.maximum(rows - 1, 0), size)
        last = np.where(first[:, None], mean, last)
        return cls(rows, episode, chunks, mask, last, mean, std)

    def part(self, most: int) -> tuple[Recorded, np.ndarray]:
        """Up to `most` of the states, evenly spread over those of every episode, but at least one
        of each; and which they are.
        """
        _, start, count = np.unique(self.episode, return_index=True, return_counts=True)
        each = max(1, most // len(start))
        chosen = np.concatenate(
            [
                first + np.unique(((np.arange(min(each, n)) + 0.5) * n / min(each, n)).astype(int))
                for first, n in zip(start, count)
            ]
        )
        names = ("rows", "episode", "chunks", "mask", "last")
        return replace(self, **{name: getattr(self, name)[chosen] for name in names}), chosen

    def errors(self, predicted: np.ndarray) -> Errors:
        """Of chunks that broadcast to (n, H, A)."""
        squared = np.square(predicted.astype(np.float64) - self.chunks) * self.mask[..., None]
        _, start = np.unique(self.episode, return_index=True)  # states of an episode are together
        totals = np.add.reduceat(squared, start)  # (E, H, A)
        counts = np.add.reduceat(self.mask.astype(np.int64), start)[..., None]  # (E, H, 1)
        cells = np.where(counts > 0, totals / np.maximum(counts, 1), np.nan)
        return Errors(cells, totals.sum(1) / counts.sum(1), self.std)


def _spread(length: int, most: int, overruled: np.ndarray | None) -> np.ndarray:
    """Up to `most` steps of an episode, evenly spread, without the first if there are others."""
    first = min(1, length - 1)
    if overruled is None or not overruled.any():
        return np.unique(np.linspace(first, length - 1, min(most, length), dtype=int))
    own = np.flatnonzero(~overruled)
    own = own[own >= first] if (own >= first).any() else own
    return own[np.unique(np.linspace(0, len(own) - 1, min(most, len(own)), dtype=int))]


@dataclass(frozen=True)
class Errors:
    """Mean squared errors of E episodes, in action units.

    Attributes:
        cells: (E, H, A) by step of the chunk; NaN where the episode never lasts so long.
        dimensions: (E, A) over all steps.
        std: (A,) of the actions that were learned from, 0 where the dimension stands still.
    """

    cells: np.ndarray
    dimensions: np.ndarray
    std: np.ndarray

    @property
    def share(self) -> np.ndarray:
        """(E,) mean over the dimensions that move of the error's share of their variance."""
        return self._share(self.dimensions)

    @property
    def steps(self) -> np.ndarray:
        """(E, H) the same by step of the chunk."""
        return self._share(self.cells)

    def _share(self, squared: np.ndarray) -> np.ndarray:
        moves = self.std > 0
        if not moves.any():
            return np.zeros(squared.shape[:-1])
        return (squared[..., moves] / self.std[moves] ** 2).mean(-1)
