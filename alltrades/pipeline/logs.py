"""Logs: episodes of unknown quality, of which a generalist learns at the states alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from alltrades.data.agreement import other_fields
from alltrades.data.interface import Interface
from alltrades.data.opened import Stores
from alltrades.data.steps import Steps
from alltrades.data.store import EpisodeStore
from alltrades.errors import UserError
from alltrades.pipeline.given import environments_of
from alltrades.settings.distill import DistillSettings
from alltrades.system.remote.place import place

LOGS = "logs"  # the source of their episodes


def logs_of(
    settings: DistillSettings,
    environments: Sequence[str],
    demos: Sequence[EpisodeStore],
    stores: Stores,
) -> Steps | None:
    """All episodes of these environments in `distill.logs`; None where none are given. What actions
    they have is not looked at.

    Raises UserError for a store that has none of the environments or other fields than the
    demonstrations in the stores `demos`, for one that is given twice or is one of those, and where
    success is to choose and no log says it. Logs are opened among `stores`.
    """
    if not settings.logs:
        return None
    known: Mapping[str, Interface] = {e.id: e for e in environments_of(demos)}
    found, there = (
        [],
        {store.digest(): "demonstrations, of which some are held out" for store in demos},
    )
    for path in map(place, settings.logs):
        store = stores.open(path)
        if store.digest() in there:
            raise UserError(
                f"distill.logs: {path} has the episodes of {there[store.digest()]}; expected other "
                "ones; leave it out"
            )
        there[store.digest()] = str(path)
        steps = store.steps(environments)
        if not len(steps.ends):
            raise UserError(
                f"{path}: no episodes of {', '.join(environments)}; expected logs of them; "
                "`alltrades data info` lists what it has"
            )
        for name, interface in store.interfaces().items():
            wrong = name in known and other_fields(interface.observation, known[name].observation)
            if wrong:
                raise UserError(
                    f"{path}: observations of '{name}' are others than those of the "
                    f"demonstrations: {wrong}; expected the same; record them in the same "
                    "environment"
                )
        if settings.weights.filtered and not steps.tells_success:
            raise UserError(
                f"{path}: nothing says which of its episodes succeeded, and weights.kind = "
                f"{settings.weights.kind} learns successes alone; expected logs that say it "
                "(`alltrades data relabel`), or another kind, such as ratio; of an expert's, give "
                "them with --demos.path"
            )
        silent = np.zeros(len(steps.ends), bool)
        source = np.full(len(steps.ends), LOGS)
        found.append(replace(steps, has_actions=silent, source=source))
    return Steps.concatenate(found)


def digests_of(settings: DistillSettings, stores: Stores) -> list[str]:
    """Of the stores in `distill.logs`."""
    return [store.digest() for store in stores.all(settings.logs)]
