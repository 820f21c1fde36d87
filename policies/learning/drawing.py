"""Which rows of a training are drawn: of each environment its own, by their probability."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from alltrades.data.steps import Steps


class Draws(Protocol):
    """The rows that can be drawn.

    Attributes:
        present: (P,) numbers of the environments that have some, ascending.
    """

    present: np.ndarray

    def at(self, slot: np.ndarray, point: np.ndarray) -> np.ndarray:
        """Rows (B,) int64 of the environments `present[slot]` (B,), at points (B,) in [0, 1) of the
        sum of their probabilities. O(B log rows).
        """
        ...

    def every(self) -> np.ndarray:
        """All of them, environment by environment."""
        ...


def draws_of(steps: Steps, of_episode: np.ndarray, probability: np.ndarray) -> Draws:
    """Those with which each environment's rows are drawn in proportion to `probability` (S,).

    Args:
        of_episode: (E,) number of the environment of each episode; those of -1 are left out.
    """
    uniform = _whole_episodes(steps, probability)
    if uniform is not None:
        return UniformDraws(steps, of_episode, uniform)
    return WeightedDraws(steps, of_episode, probability)


class UniformDraws:
    """All steps of some episodes, each as probable as the others of its environment.

    Memory: 16 bytes for each of these episodes, however long they are. The same rows at the same
    points as `WeightedDraws` of ones, to the last bit.

    Args:
        chosen: (E,) bool.
    """

    def __init__(self, steps: Steps, of_episode: np.ndarray, chosen: np.ndarray) -> None:
        episodes = _by_environment(of_episode, chosen)
        self._last = steps.ends[episodes]  # one past each
        self._stop = np.cumsum(steps.lengths[episodes])  # the same, of these alone
        self.present, first = np.unique(of_episode[episodes], return_index=True)
        self._bounds = np.concatenate([[0], self._stop])[[*first, len(episodes)]]

    def at(self, slot: np.ndarray, point: np.ndarray) -> np.ndarray:
        begin, count = self._bounds[slot], np.diff(self._bounds)[slot]
        wanted = slot + point
        found = ((wanted - slot) * count).astype(np.int64)  # one of two, by rounding
        found -= (found > 0) & (_reached(found - 1, slot, count) > wanted)
        found += _reached(found, slot, count) <= wanted
        number = begin + np.clip(found, 0, count - 1)
        episode = np.searchsorted(self._stop, number, side="right")
        return self._last[episode] - (self._stop[episode] - number)

    def every(self) -> np.ndarray:
        number = np.arange(self._bounds[-1])
        episode = np.searchsorted(self._stop, number, side="right")
        return self._last[episode] - (self._stop[episode] - number)


class WeightedDraws:
    """Rows by probabilities of their own. Memory: 12 bytes for each that can be drawn."""

    def __init__(self, steps: Steps, of_episode: np.ndarray, probability: np.ndarray) -> None:
        order = _rows_of(steps, _by_environment(of_episode, np.ones(len(of_episode), bool)))
        self._order = order[probability[order] > 0]
        environment = np.repeat(of_episode, steps.lengths)[self._order]
        kind = of_episode.dtype
        firsts = np.searchsorted(environment, np.arange(of_episode.max(initial=0) + 2).astype(kind))
        self.present = np.flatnonzero(np.diff(firsts))
        self._bounds = np.append(firsts[self.present], len(self._order))
        self._cumulative = np.empty(len(self._order))
        for i in range(len(self.present)):  # environment i owns the interval (i, i + 1]
            block = slice(self._bounds[i], self._bounds[i + 1])
            share = self._cumulative[block]  # a view, summed in place: S may be large
            share[:] = probability[self._order[block]]
            np.add.accumulate(share, out=share)
            share /= share[-1]
            share += i

    def at(self, slot: np.ndarray, point: np.ndarray) -> np.ndarray:
        found = np.searchsorted(self._cumulative, slot + point, side="right")
        return self._order[np.minimum(found, self._bounds[slot + 1] - 1)].astype(np.int64)

    def every(self) -> np.ndarray:
        return self._order


def _reached(number: np.ndarray, slot: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Where the interval of an environment's row `number` ends, as `WeightedDraws` has it."""
    return (number + 1) / count + slot


def _whole_episodes(steps: Steps, probability: np.ndarray) -> np.ndarray | None:
    """(E,) bool, the episodes whose steps have probability 1, where those of all others have 0;
    None where it is not so.
    """
    if not len(probability):
        return np.zeros(0, bool)
    chosen = probability[steps.starts] == 1
    inside = probability[1:] == probability[:-1]
    inside[steps.ends[:-1] - 1] = True
    return chosen if inside.all() and (chosen | (probability[steps.starts] == 0)).all() else None


def _by_environment(of_episode: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The chosen episodes of environment 0, then of 1, and so on, each in order."""
    order = np.argsort(of_episode, kind="stable")
    return order[(of_episode[order] >= 0) & chosen[order]]


def _rows_of(steps: Steps, episodes: np.ndarray) -> np.ndarray:
    """The rows of some episodes, one after another."""
    lengths = steps.lengths[episodes]
    kind = np.int32 if len(steps) < 2**31 else np.int64
    out = np.ones(int(lengths.sum()), kind)  # steps from one row to the next
    if len(out):
        jumps = steps.starts[episodes]
        jumps[1:] -= steps.ends[episodes][:-1] - 1
        out[np.cumsum(lengths) - lengths] = jumps
        np.add.accumulate(out, out=out)
    return out
