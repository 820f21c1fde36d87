"""Weights as a column of a store: they are an artifact of their own, and reading puts the two
together.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from alltrades.data.store import EpisodeStore
from alltrades.data.weights.estimate import WeightResult
from alltrades.errors import UserError
from alltrades.pipeline.acting import slug


def weight_column(store: EpisodeStore, folder: Path) -> np.ndarray:
    """Weight of every step (T,) float64 of a store of demonstrations or of one teacher's rollouts;
    NaN where it has none.

    `folder` is what `alltrades weigh` wrote for these stores, or weights/ROW of a run. Steps after
    an episode's first success have weight 1, and count for nothing. Weighing may have used the
    first episodes of each environment only.

    Raises UserError for a folder without weights, or with those of other rows.
    """
    steps, demonstrations = store.steps(), store.provenance.get("kind") == "demonstrations"
    column = np.full(store.n_steps, np.nan)
    names = [
        str(name)
        for name in np.unique(steps.environment)
        if (folder / slug(str(name)) / "weights.json").exists()
    ]
    if not names:
        raise UserError(
            f"{folder}: no weights of {', '.join(map(str, np.unique(steps.environment)[:6]))}; "
            "expected a folder "
            "that `alltrades weigh` wrote, or weights/ROW of a run"
        )
    of_step = steps.environment[steps.episode_of_step]
    for name in names:
        result = WeightResult.load(folder / slug(name))
        weight = result.demo_weight if demonstrations else result.rollout_weight
        ends = np.cumsum(steps.lengths[steps.environment == name])
        if len(weight) not in (0, *ends):
            raise UserError(
                f"{folder}: {len(weight)} weights of '{name}', where no number of episodes of "
                f"{store.path} has as "
                "many steps; expected the weights of this store alone; weigh it again"
            )
        column[np.flatnonzero(of_step == name)[: len(weight)]] = weight
    return column


def describe_weights(store: EpisodeStore, folder: Path) -> Sequence[str]:
    """Lines for `alltrades data info STORE --weights FOLDER`."""
    column, steps = weight_column(store, folder), store.steps()
    of_step, lines = (
        steps.environment[steps.episode_of_step],
        [f"  weight, from {folder}: ({store.n_steps},) float64"],
    )
    for name in np.unique(steps.environment):
        mine = column[(of_step == name) & np.isfinite(column)]
        lines.append(
            f"  {name}: "
            + (
                f"{len(mine)} weights, {mine.min():.2f} to {mine.max():.2f}, median "
                f"{np.median(mine):.2f}"
                if len(mine)
                else "no weights"
            )
        )
    return lines
