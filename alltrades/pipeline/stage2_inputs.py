"""What the commands of stage 2 are given as files: teachers with their rollouts, and weights with
the rows they belong to.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alltrades.data.steps import Steps
from alltrades.data.store import EpisodeStore
from alltrades.data.weights.estimate import WeightResult, WeightSettings
from alltrades.envs.spec import EnvSpec
from alltrades.errors import UserError
from alltrades.pipeline.acting import Policies, load_policies, slug
from alltrades.system.files import write_json

INPUTS = "inputs.json"


def read_teachers(
    words: Sequence[str], specs: Sequence[EnvSpec], device: str
) -> tuple[dict[str, Policies], dict[str, Path]]:
    """Policies and store of every teacher NAME=POLICIES:ROLLOUTS.

    Raises UserError for other words, and for a store whose episodes were not recorded under that
    name.
    """
    teachers, stores = {}, {}
    for word in words:
        name, _, rest = word.partition("=")
        folder, _, store = rest.rpartition(":")
        if not (name and folder and store):
            raise UserError(
                f"--teacher {word}; expected NAME=POLICIES:ROLLOUTS, such as "
                "scratch=specialists:rollouts.zarr"
            )
        others = sorted(
            {str(s) for s in EpisodeStore.open(Path(store)).columns()["source"]} - {name}
        )
        if others:
            raise UserError(
                f"--teacher {word}: episodes of {store} were recorded by '{others[0]}'; expected "
                f"'{name}'; write "
                f"{others[0]}={rest}"
            )
        teachers[name] = load_policies(Path(folder), specs, device)
        stores[name] = Path(store)
    return teachers, stores


def _inputs(demos: Steps, rollouts: Steps, settings: WeightSettings) -> dict[str, Any]:
    return {
        "demonstrations": demos.digest(),
        "rollouts": rollouts.digest(),
        "settings": settings.model_dump(mode="json"),
    }


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
    write_json(folder / INPUTS, _inputs(demos, rollouts, settings))


def load_weights(
    folder: Path, demos: Steps, rollouts: Steps, settings: WeightSettings
) -> dict[str, WeightResult]:
    """The weights of `folder`; UserError when they are those of other rows or settings."""
    try:
        found = json.loads((folder / INPUTS).read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder}: no weights here ({error}); expected a folder that `alltrades weigh` wrote"
        ) from error
    for what, value in _inputs(demos, rollouts, settings).items():
        if found.get(what) != value:
            raise UserError(
                f"{folder}: the weights were estimated with other {what}; expected the same "
                "demonstrations, rollouts "
                "(stores in the order of the teachers) and distill.weights; give those, or weigh "
                "again"
            )
    return {
        str(name): WeightResult.load(folder / slug(str(name)))
        for name in dict.fromkeys(demos.environment)
    }
