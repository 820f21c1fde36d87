"""Stages of demonstrations: recorded, imported, and further ones that nothing is trained on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alltrades.data.steps import Steps
from alltrades.data.store import EpisodeStore
from alltrades.pipeline import collection
from alltrades.pipeline.context import Context
from alltrades.system.files import write_json
from alltrades.system.reporting import Report

HELD_OUT = 5  # demonstrations per environment, beside those that are learned from


@dataclass(frozen=True)
class Demonstrations:
    """The demonstrations in a store that a context's settings choose, with episodes of states
    alone beside them.
    """

    context: Context
    store: Path

    def steps(self) -> Steps:
        demos = self.context.settings.demos
        return collection.first_demos(
            self.store, self.context.ids, demos.episodes, demos.observations
        )

    def key(self) -> dict[str, Any]:
        """What a stage that learns from them depends on."""
        settings = self.context.settings
        key = {
            "demos": EpisodeStore.open(self.store).digest(),
            "policy": settings.policy.model_dump(mode="json"),
            "settings": settings.demos.model_dump(mode="json", exclude={"observations"}),
        }
        if settings.demos.observations is not None:
            key["observations"] = EpisodeStore.open(Path(settings.demos.observations)).digest()
        return key


def record(context: Context, out: Path, rates: Path | None = None) -> None:
    """Successful episodes of the scripted experts into a store, which holds their rates; the same
    as JSON in `rates`.
    """
    settings = context.settings

    def body(report: Report) -> None:
        found = collection.collect(
            context.specs,
            settings.demos.episodes,
            settings.seed,
            out,
            settings.rollout,
            settings.demos.attempts,
            report.progress,
        )
        if rates is not None:
            write_json(rates, found)

    outputs = [out] if rates is None else [out, rates]
    key = {"episodes": settings.demos.episodes, "path": None}
    context.stage("demos", key, outputs, body, len(context.specs), "env")


def imported(context: Context, source: Path, out: Path) -> None:
    """The demonstrations of a given store."""
    key = {
        "episodes": context.settings.demos.episodes,
        "path": str(source),
        "content": EpisodeStore.open(source).digest(),
    }

    def body(_: Report) -> None:
        collection.import_demos(context.specs, source, out)

    context.stage("demos", key, [out], body, len(context.specs), "env")


def record_held_out(context: Context, out: Path) -> None:
    """Further episodes of the scripted experts."""
    settings = context.settings

    def body(report: Report) -> None:
        collection.collect(
            context.specs,
            HELD_OUT,
            settings.seed,
            out,
            settings.rollout,
            4 * settings.demos.attempts,
            report.progress,
            "held_out",
        )

    context.stage("held_out", {"episodes": HELD_OUT}, [out], body, len(context.specs), "env")


def held_out(demos: Demonstrations, recorded: Path) -> Steps:
    """Demonstrations that nothing was trained on: recorded ones of the experts, or those of a given
    store behind the first.
    """
    context = demos.context
    if context.settings.demos.path is None:
        return EpisodeStore.open(recorded).steps(context.ids)
    steps = EpisodeStore.open(demos.store).steps(context.ids)
    used = context.settings.demos.episodes
    keep = np.zeros(len(steps.environment), bool)
    for name in context.ids:
        recorded_here = np.flatnonzero((steps.environment == name) & steps.has_actions)
        keep[recorded_here[used : used + HELD_OUT]] = True
    return steps.select(keep)
