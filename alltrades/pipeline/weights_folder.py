"""A folder of weights: one sub-folder per environment, and what they were estimated on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from alltrades.data.steps import Steps
from alltrades.data.store import EpisodeStore
from alltrades.data.weights.estimate import WeightResult
from alltrades.data.weights.settings import WeightSettings
from alltrades.errors import UserError
from alltrades.system.files import slug
from alltrades.system.reading import read_mapping, write_sealed

INPUTS = "inputs.json"


def weight_files(folder: Path, environments: Sequence[str]) -> list[Path]:
    """What `save_weights` writes."""
    return [*(folder / slug(name) for name in environments), folder / INPUTS]


def _inputs(demos: Steps, rollouts: Steps, settings: WeightSettings) -> dict[str, Any]:
    return {
        "demonstrations": _seen(demos).digest(),
        "rollouts": _seen(rollouts).digest(),
        "settings": settings.model_dump(mode="json"),
    }


def _seen(steps: Steps) -> Steps:
    """What weights are estimated on: states, and no images or texts."""
    states = {name: steps.observation[name] for name in steps.states}
    return replace(steps, observation=states, text={})


def save_weights(
    folder: Path,
    results: Mapping[str, WeightResult],
    demos: Steps,
    rollouts: Steps,
    settings: WeightSettings,
) -> None:
    """Write the weights of every environment, and what they were estimated on."""
    (folder / INPUTS).unlink(missing_ok=True)
    for name, result in results.items():
        result.save(folder / slug(name))
    write_sealed(folder / INPUTS, _inputs(demos, rollouts, settings))


def load_weights(folder: Path, environments: Sequence[str]) -> dict[str, WeightResult]:
    """The weights of these environments."""
    return {name: WeightResult.load(folder / slug(name)) for name in environments}


def check_weights(folder: Path, demos: Steps, rollouts: Steps, settings: WeightSettings) -> None:
    """UserError where `folder` has no weights, or those of other rows or settings."""
    found = read_mapping(folder / INPUTS, "a folder that `alltrades weigh` wrote", "weigh again")
    for what, value in _inputs(demos, rollouts, settings).items():
        if found.get(what) != value:
            raise UserError(
                f"{folder}: the weights were estimated with other {what}; expected the same "
                "demonstrations, rollouts (stores in the order of the teachers) and "
                "distill.weights; give those, or weigh again"
            )


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
            "expected a folder that `alltrades weigh` wrote, or weights/ROW of a run"
        )
    of_step = steps.environment[steps.episode_of_step]
    for name in names:
        result = WeightResult.load(folder / slug(name))
        weight = result.demo_weight if demonstrations else result.rollout_weight
        ends = np.cumsum(steps.lengths[steps.environment == name])
        if len(weight) not in (0, *ends):
            raise UserError(
                f"{folder}: {len(weight)} weights of '{name}', where no number of episodes of "
                f"{store.path} has as many steps; expected the weights of this store alone; weigh "
                "it again"
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
