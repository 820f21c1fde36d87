"""Which setting of specialists, and for how many steps: the choice by held-out losses.

A handful of demonstrations of one environment cannot tell settings apart. One choice shared by all
environments can: every environment gives the held-out losses of its own episodes, in shares of the
lowest that any setting reached there, and the setting with the lowest mean over environments is
taken, at the number of steps where that mean is lowest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from alltrades.data.steps import Steps
from alltrades.errors import UserError
from alltrades.policies.learning.stacked_training import Candidate
from alltrades.system.streams import stream


@dataclass(frozen=True)
class Choice:
    """What cross-validation found.

    Attributes:
        candidate, steps: position of the best candidate, and its number of steps.
        relative: (C, S) mean over environments of the held-out loss, in shares of each
            environment's lowest.
        losses: per environment (C, S) held-out denoising losses, mean over folds.
        looks: (S,) the steps at which they were taken.
    """

    candidate: int
    steps: int
    relative: np.ndarray
    losses: dict[str, np.ndarray]
    looks: tuple[int, ...]

    def to_json(self, candidates: Sequence[Candidate]) -> dict[str, Any]:
        """Table of losses by candidate and environment; None for those of trainings that diverged
        or had ended.
        """
        best = self.relative.argmin(1).tolist()
        chosen = candidates[self.candidate]
        return {
            "chosen": chosen.name,
            "steps": self.steps,
            "of": chosen.train.steps,
            "looks": list(self.looks),
            "relative_loss": {
                c.name: _known(self.relative[i, best[i]]) for i, c in enumerate(candidates)
            },
            "relative_curves": {
                c.name: [_known(x) for x in self.relative[i]] for i, c in enumerate(candidates)
            },
            "losses": {
                name: {c.name: _known(losses[i, best[i]]) for i, c in enumerate(candidates)}
                for name, losses in self.losses.items()
            },
        }


def _known(loss: float) -> float | None:
    return float(loss) if np.isfinite(loss) else None


def fold_of_episode(demos: Steps, folds: int, seed: int) -> np.ndarray:
    """(E,) fold in which an episode is held out: min(folds, episodes) folds per environment; -1
    where there is one episode.

    Episodes without actions are -1 too.
    """
    rng = stream(seed, "folds")
    out = np.full(len(demos.environment), -1)
    for name in dict.fromkeys(demos.environment.tolist()):
        mine = demos.acted(name)
        if len(mine) > 1:
            out[rng.permutation(mine)] = np.arange(len(mine)) % folds
    return out


def choose(losses: Mapping[str, np.ndarray], looks: Sequence[int]) -> Choice:
    """The candidate and number of steps with the lowest mean relative loss; `losses` per
    environment (C, S).

    A loss that is not finite, of a training that diverged or had ended before, is above every
    other. Raises UserError where nothing else is left.
    """
    found = {name: np.where(np.isfinite(x), x, np.inf) for name, x in losses.items()}
    lowest = {name: float(x.min()) for name, x in found.items()}
    relative = np.mean(
        [
            x / max(lowest[name], 1e-12) if np.isfinite(lowest[name]) else x
            for name, x in found.items()
        ],
        axis=0,
    )  # (C, S)
    if not np.isfinite(relative).any():
        raise UserError(
            "no candidate's held-out loss is finite in every environment at any number of steps: "
            "all trainings diverged; expected one that learns; lower specialist.train.lr or the "
            "candidates' lr"
        )
    candidate, look = np.unravel_index(int(relative.argmin()), relative.shape)
    return Choice(int(candidate), looks[int(look)], relative, found, tuple(looks))
