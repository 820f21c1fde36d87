"""Open loop: chunks that policies predict at recorded states beside what the operator did there.

What can be said of a policy without a simulator: it tells one that has learned something from one
that has not, and is no success rate. Beside it stand what needs no learning: holding the last
action, and the mean action.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy import stats

from alltrades.data.interface import Interface
from alltrades.data.steps import Steps
from alltrades.data.windows import WindowIndex
from alltrades.policies.acting import ActingPolicy
from alltrades.policies.model.statistics import action_spread
from alltrades.system.streams import stream

HOLD, MEAN = "hold the last action", "mean action"
PER_EPISODE = 32  # states at which chunks are predicted, evenly spread
BATCH = 256

Predict = Callable[[np.ndarray], np.ndarray]  # steps (n,) -> chunks (n, H, A) in action units


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
        of a single step holds the mean action.
        """
        rows = np.concatenate(
            [
                start + np.unique(np.linspace(min(1, n - 1), n - 1, min(PER_EPISODE, n), dtype=int))
                for start, n in zip(held_out.starts, held_out.lengths)
            ]
        )
        episode, size = held_out.episode_of_step[rows], interface.action_dim
        index = rows[:, None] + np.arange(horizon)
        mask = index < held_out.ends[episode][:, None]
        chunks = held_out.action.take(np.where(mask, index, rows[:, None]), size)
        found = action_spread(learned.action.resized(size), interface.action)
        whole = np.broadcast_to(found.still, (size // len(found.still), len(found.still)))
        actions = learned.action.load(size).astype(np.float64)
        std = np.where(whole.reshape(-1), 0.0, actions.std(0))
        mean, first = actions.mean(0), rows == held_out.starts[episode]
        last = held_out.action.take(np.maximum(rows - 1, 0), size)
        last = np.where(first[:, None], mean, last)
        return cls(rows, episode, chunks, mask, last, mean, std)

    def errors(self, predicted: np.ndarray) -> np.ndarray:
        """(E, A) mean squared error of chunks (n, H, A), of each episode that has rows."""
        squared = np.square(predicted.astype(np.float64) - self.chunks) * self.mask[..., None]
        _, place = np.unique(self.episode, return_inverse=True)
        count = len(np.unique(self.episode))
        total = np.zeros((count, squared.shape[2]))
        np.add.at(total, place, squared.sum(1))
        return total / np.bincount(place, self.mask.sum(1), count)[:, None]

    def shares(self, errors: np.ndarray) -> np.ndarray:
        """(E,) mean over the dimensions that move of the error's share of their variance."""
        moves = self.std > 0
        return (errors[:, moves] / self.std[moves] ** 2).mean(1)


def open_loop(
    policies: Mapping[str, ActingPolicy],
    held_out: Steps,
    learned: Steps,
    interface: Interface,
    seed: int,
) -> dict[str, Any]:
    """How far policies, by the name of their row, are from the operator in one environment; plain
    data.

    `rows` and `baselines` hold for each name `share`, the mean squared error over the variance of
    each dimension, averaged over dimensions and over episodes alike; `shares` of each episode; the
    95 % `interval` over episodes (Student's t; None for one episode); `per_dimension` the same by
    dimension (None where it stands still) and `rmse`, the error's root in action units. A row also
    has its `difference` from the better baseline, with its interval over the same episodes, and
    `better`: whether that lies below 0.

    Args:
        held_out: episodes of that environment to judge on. learned: those that policies and
            baselines were made from. All have actions.
        seed: of the policies' noise, the same for all.

    Cost: `PER_EPISODE` chunks of every policy and episode.
    """
    horizon = min(policy.horizon for policy in policies.values())
    there = Recorded.of(held_out, learned, interface, horizon)
    shape = there.chunks.shape
    guesses = {HOLD: there.last[:, None], MEAN: there.mean[None, None]}
    baselines = {
        name: there.errors(np.broadcast_to(guess, shape)) for name, guess in guesses.items()
    }
    best = min(baselines, key=lambda name: float(there.shares(baselines[name]).mean()))
    rows = {}
    for name, policy in policies.items():
        drawn = _chunks(policy, held_out, there.rows, interface.id, seed)[:, :horizon]
        errors = there.errors(drawn)
        difference = there.shares(errors) - there.shares(baselines[best])
        bounds = interval(difference)
        rows[name] = _figures(there, errors) | {
            "difference": float(difference.mean()),
            "difference_interval": bounds,
            "better": bool((difference.mean() if bounds is None else bounds[1]) < 0),
        }
    return {
        "episodes": len(np.unique(there.episode)),
        "learned": len(learned.ends),
        "steps": horizon,
        "names": list(interface.action.names or map(str, range(shape[2]))),
        "units": list(interface.action.units or [""] * shape[2]),
        "std": there.std.tolist(),
        "best_baseline": best,
        "rows": rows,
        "baselines": {name: _figures(there, errors) for name, errors in baselines.items()},
    }


def interval(values: np.ndarray) -> list[float] | None:
    """95 % interval (Student's t) of the mean of values (n,); None for fewer than two."""
    if len(values) < 2:
        return None
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return [float(values.mean() - half), float(values.mean() + half)]


def _figures(there: Recorded, errors: np.ndarray) -> dict[str, Any]:
    shares, mean = there.shares(errors), errors.mean(0)
    found = interval(shares)
    each = [float(e / s**2) if s > 0 else None for e, s in zip(mean, there.std)]
    return {
        "share": float(shares.mean()),
        "shares": shares.tolist(),
        "interval": None if found is None else [max(0.0, found[0]), found[1]],
        "per_dimension": each,
        "rmse": np.sqrt(mean).tolist(),
    }


def _chunks(
    policy: ActingPolicy, steps: Steps, rows: np.ndarray, name: str, seed: int
) -> np.ndarray:
    """(n, H, A) chunks of a policy at some steps, in its environment's own dimensions."""
    index, out = policy.environment_index(name), []
    windows = WindowIndex(steps.ends, policy.n_obs_steps, 1)
    own = partial(policy.layout.action, index)
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        shape = (len(part), policy.draws, policy.horizon, policy.action_dim)
        noise = stream(seed, "open loop", name, start).standard_normal(shape, dtype=np.float32)
        window = steps.window(policy.layout, windows.take(part).obs_index)
        environment = np.full(len(part), index, np.int64)
        out.append(own(policy.act(window, environment, noise)))
    return np.concatenate(out)
