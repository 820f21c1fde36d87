"""Open loop: chunks that policies predict at recorded states beside what the operator did there.

What can be said of a policy without a simulator: it tells one that has learned something from one
that has not, and is no success rate. Beside it stands what needs no learning (see `baselines`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np

from alltrades.data.interface import Interface
from alltrades.data.steps import Steps
from alltrades.data.windows import WindowIndex
from alltrades.policies.acting import ActingPolicy
from alltrades.policies.learning.baselines import baselines
from alltrades.policies.learning.recorded import Errors, Recorded
from alltrades.policies.learning.resampling import Resampling
from alltrades.system.streams import stream

BATCH = 256
DRAWS = 16  # chunks whose mean is judged too
MOST_AVERAGED = 256  # states at which it is
MOST_CELLS = 2048  # steps times dimensions up to which each of them is told

# Of a plot: steps of the episode, dimensions
MOST_DRAWN, MOST_DIMENSIONS = 400, 6
BETTER, WORSE, NOT_TOLD = "better", "worse", "not told apart"


def open_loop(
    policies: Mapping[str, ActingPolicy],
    held_out: Steps,
    learned: Steps,
    interface: Interface,
    seed: int,
) -> dict[str, Any]:
    """How far policies, by the name of their row, are from the operator in one environment; plain
    data.

    `rows` and `baselines` hold for each name

    - `share`, the mean squared error over the variance of each dimension, averaged over dimensions
      and over episodes alike, its 95 % `interval` over episodes (None for one episode), and
      `shares` of each episode;
    - `steps`: share and intervals of each step of the chunk (None where no episode lasts so long);
    - `dimensions`: of each dimension the share (None where it stands still) and `rmse`, the
      error's root in action units, with their intervals;
    - `cells`: the same of each step and dimension; None where these are more than `MOST_CELLS`.

    A row also has `against` for every baseline and step of the best one (`best_steps`): the paired
    difference, its interval over the same episodes and a verdict, "better" where that lies below 0,
    "worse" above, else "not told apart". `difference`, `difference_interval` and `better` are
    those from the best baseline. `mean` holds all of it for the mean of `DRAWS` chunks, at fewer
    states, from the baselines at these. `pairs` compares rows, each with those before it.

    Args:
        held_out: episodes of that environment to judge on. learned: those that policies and
            baselines were made from. All have actions.
        seed: of the policies' noise, the same for all.

    Cost: one chunk at up to `MOST_STATES` states, and `DRAWS` at up to `MOST_AVERAGED`, or one of
    each episode, of every policy.
    """
    horizon = min(policy.horizon for policy in policies.values())
    there = Recorded.of(held_out, learned, interface, horizon)
    guesses = baselines(there, held_out, learned, interface)
    few, chosen = there.part(MOST_AVERAGED)
    trivial = {name: there.errors(guess) for name, guess in guesses.chunks.items()}
    trivial_few = {
        name: few.errors(guess if len(guess) == 1 else guess[chosen])
        for name, guess in guesses.chunks.items()
    }
    resampling = Resampling(len(trivial[next(iter(trivial))].dimensions))
    rows, own, shown = {}, {}, _Shown(there, held_out)
    for name, policy in policies.items():
        draw = partial(draw_chunks, policy, held_out, name=interface.id, seed=seed)
        drawn = draw(rows=there.rows)[:, :horizon]
        shown.add(name, drawn)
        own[name] = there.errors(drawn)
        total = drawn[chosen].astype(np.float64)
        for k in range(1, DRAWS):
            total += draw(rows=few.rows, number=k)[:, :horizon]
        mean = few.errors(total / DRAWS)
        rows[name] = _judged(own[name], trivial, resampling) | {
            "mean": _judged(mean, trivial_few, resampling)
        }
    pairs = [
        {"a": b, "b": a} | _difference(own[b].share - own[a].share, resampling)
        for a, b in combinations(own, 2)
    ]
    size = there.chunks.shape[2]
    return {
        "episodes": len(np.unique(there.episode)),
        "of_episodes": len(held_out.ends),
        "states": len(there.rows),
        "averaged_states": len(few.rows),
        "learned": len(learned.ends),
        "searched": guesses.searched,
        "of_steps": len(learned),
        "steps": horizon,
        "names": list(interface.action.names or map(str, range(size))),
        "units": list(interface.action.units or [""] * size),
        "std": there.std.tolist(),
        "best_baseline": _best(trivial),
        "best_steps": _best_steps(trivial),
        "rows": rows,
        "baselines": {name: _figures(errors, resampling) for name, errors in trivial.items()},
        "left_out": guesses.left_out,
        "pairs": pairs,
        "shown": shown.found,
    }


class _Shown:
    """The first episode's actions, and chunks that do not overlap, for a plot."""

    def __init__(self, there: Recorded, held_out: Steps) -> None:
        horizon, size = there.chunks.shape[1:]
        mine = np.flatnonzero(there.episode == there.episode[0])
        start = int(held_out.starts[there.episode[0]])
        kept: list[int] = []
        for i in mine[there.rows[mine] - start < MOST_DRAWN]:
            if not kept or there.rows[i] >= there.rows[kept[-1]] + horizon:
                kept.append(int(i))
        length = int(held_out.lengths[there.episode[0]])
        self.kept, self.mask = np.array(kept), there.mask[kept]
        self.dimensions = np.flatnonzero(there.std > 0)[:MOST_DIMENSIONS]
        rows = start + np.arange(min(length, MOST_DRAWN))
        recorded = held_out.action.take(rows, size)[:, self.dimensions]
        self.found: dict[str, Any] = {
            "steps": length,
            "dimensions": self.dimensions.tolist(),
            "recorded": _short(recorded),
            "at": (there.rows[kept] - start).tolist(),
            "chunks": {},
        }

    def add(self, name: str, chunks: np.ndarray) -> None:
        """Chunks (n, H, A) of a row, as far as the episode goes."""
        mine = chunks[self.kept][:, :, self.dimensions]
        self.found["chunks"][name] = [_short(c[m]) for c, m in zip(mine, self.mask)]


def _short(values: np.ndarray) -> Any:
    return [[float(f"{v:.5g}") for v in row] for row in values.tolist()]


def _best(trivial: Mapping[str, Errors]) -> str:
    return min(trivial, key=lambda name: float(trivial[name].share.mean()))


def _best_steps(trivial: Mapping[str, Errors]) -> list[str | None]:
    """The best baseline at each step of the chunk; None where no episode lasts so long."""
    steps = np.stack([_mean(errors.steps) for errors in trivial.values()])  # (baselines, H)
    names = list(trivial)
    return [None if np.isnan(s).any() else names[int(s.argmin())] for s in steps.T]


def _mean(values: np.ndarray) -> np.ndarray:
    """Over episodes that have a value; NaN where none has."""
    there = ~np.isnan(values)
    count = there.sum(0)
    return np.where(there, values, 0.0).sum(0) / np.where(count > 0, count, np.nan)


def _judged(own: Errors, trivial: Mapping[str, Errors], resampling: Resampling) -> dict[str, Any]:
    against: dict[str, Any] = {
        name: _difference(own.share - errors.share, resampling) for name, errors in trivial.items()
    }
    found = against[_best(trivial)]
    return _figures(own, resampling) | {
        "difference": found["difference"],
        "difference_interval": found["interval"],
        "better": found["verdict"] == BETTER,
        "against": against,
        "best_steps": [
            None
            if name is None
            else {"baseline": name}
            | _difference(own.steps[:, h] - trivial[name].steps[:, h], resampling)
            for h, name in enumerate(_best_steps(trivial))
        ],
    }


def _difference(values: np.ndarray, resampling: Resampling) -> dict[str, Any]:
    bounds = _ends(resampling.intervals(values))
    verdict = NOT_TOLD
    if bounds is not None and (bounds[1] < 0 or bounds[0] > 0):
        verdict = BETTER if bounds[1] < 0 else WORSE
    return {"difference": float(_mean(values)), "interval": bounds, "verdict": verdict}


def _figures(errors: Errors, resampling: Resampling) -> dict[str, Any]:
    steps, size = errors.cells.shape[1:]
    return {
        "share": float(errors.share.mean()),
        "shares": errors.share.tolist(),
        "interval": _ends(_above(resampling.intervals(errors.share))),
        "steps": {
            "share": _plain(_mean(errors.steps)),
            "interval": _ends(_above(resampling.intervals(errors.steps))),
        },
        "dimensions": _both(errors.dimensions, errors.std, resampling),
        "cells": _both(errors.cells, errors.std, resampling)
        if steps * size <= MOST_CELLS
        else None,
    }


def _both(squared: np.ndarray, std: np.ndarray, resampling: Resampling) -> dict[str, Any]:
    """Shares of the variance and roots of errors (E, ..., A), with intervals."""
    mean, bounds = _mean(squared), _above(resampling.intervals(squared))
    variance = np.where(std > 0, std, np.nan) ** 2
    return {
        "share": _plain(mean / variance),
        "share_interval": _ends(bounds / variance),
        "rmse": _plain(np.sqrt(mean)),
        "rmse_interval": _ends(np.sqrt(bounds)),
    }


def _above(bounds: np.ndarray) -> np.ndarray:
    return np.where(bounds < 0, 0.0, bounds)  # NaN stays


def _plain(values: np.ndarray) -> Any:
    """Lists of numbers, None where one is not known."""
    if values.ndim == 0:
        return None if np.isnan(values) else float(values)
    return [_plain(v) for v in values]


def _ends(bounds: np.ndarray) -> Any:
    """Arrays (2, ...) -> lists (...) of [low, high], None where there is no interval."""
    if bounds.ndim == 1:
        return None if np.isnan(bounds).any() else bounds.tolist()
    return [_ends(bounds[:, k]) for k in range(bounds.shape[1])]


def draw_chunks(
    policy: ActingPolicy,
    steps: Steps,
    rows: np.ndarray,
    name: str,
    seed: int,
    number: int = 0,
) -> np.ndarray:
    """(n, H, A) chunks of a policy at some steps, in its environment's own dimensions; another
    number draws others.
    """
    index, out = policy.environment_index(name), []
    windows = WindowIndex(steps.ends, policy.n_obs_steps, 1)
    own = partial(policy.layout.action, index)
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        shape = (len(part), policy.draws, policy.horizon, policy.action_dim)
        rng = stream(seed, "open loop", name, start, number)
        noise = rng.standard_normal(shape, dtype=np.float32)
        window = steps.window(policy.layout, windows.take(part).obs_index)
        environment = np.full(len(part), index, np.int64)
        out.append(own(policy.act(window, environment, noise)))
    return np.concatenate(out)
