"""Stages of demonstrations: recorded, imported, and further ones that nothing is trained on."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from alltrades.data.steps import Steps
from alltrades.data.store import EpisodeStore
from alltrades.errors import UserError
from alltrades.pipeline import collection, given, interventions
from alltrades.pipeline.context import Context
from alltrades.pipeline.holdout import held_out_mask
from alltrades.pipeline.interventions import learned_from
from alltrades.pipeline.quality import look
from alltrades.pipeline.rendering import render_store, undrawn
from alltrades.policies.learning.summary import statistics_lines
from alltrades.policies.model.encoders.weights import determining
from alltrades.system.files import write_json
from alltrades.system.remote.place import place
from alltrades.system.reporting import Report

HELD_OUT = 5  # demonstrations per environment, beside those that are learned from


@dataclass(frozen=True)
class Demonstrations:
    """The demonstrations in a store, and in others behind it, that a context's settings choose,
    with episodes of states alone beside them.
    """

    context: Context
    store: Path
    others: tuple[Path, ...] = ()
    _chosen: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.store, *self.others)

    @property
    def stores(self) -> list[EpisodeStore]:
        """As they are now."""
        return self.context.stores.all(self.paths)

    def whole(self) -> Steps:
        """All episodes of the environments; the same object while no store is written."""
        return self._chosen_of(self.stores)[0]

    def steps(self) -> Steps:
        """Those that are learned from; the same object while no store is written."""
        return self._chosen_of(self.stores)[1]

    def _chosen_of(self, stores: list[EpisodeStore]) -> tuple[Steps, Steps]:
        known = self._chosen.get("of")
        if known is None or any(a is not b for a, b in zip(known[0], stores)):
            demos, context = self.context.settings.demos, self.context
            whole = collection.steps_of(stores, context.ids)
            steps = collection.first_demos(whole, context.ids, demos.wanted, self.held_out_mask)
            chosen = context.images.of(learned_from(steps, demos.interventions))
            known = self._chosen["of"] = stores, (whole, chosen)
        return known[1]

    def held_out(self) -> Steps:
        """Those that nothing learns from, to judge policies on."""
        steps = self.whole()
        return learned_from(steps.select(self.held_out_mask(steps)), "human")

    def held_out_mask(self, steps: Steps) -> np.ndarray:
        """(E,) bool of all episodes: those that `held_out` has. Chosen by the seed of the
        evaluation, not the run's, so that runs compare.
        """
        return held_out_mask(steps, self.context.holdout, self.context.settings.evaluation.seed)

    def held_out_facts(self) -> dict[str, Any]:
        """What an artifact says of the episodes that it did not learn from: by environment the
        share, of how many, and the seed that chose them.
        """
        steps, seed = self.whole(), self.context.settings.evaluation.seed
        return {
            "held_out": {
                name: {"share": share, "of": len(steps.acted(name)), "seed": seed}
                for name, share in self.context.holdout.items()
            }
        }

    def print_statistics(self) -> None:
        """Say on stderr what networks of each environment are normalised by."""
        seen = self.context.settings.all_seen()
        for line in statistics_lines(self.steps(), self.context.interfaces, seen):
            print(line, file=sys.stderr)

    def key(self) -> dict[str, Any]:
        """What a stage that learns from them depends on."""
        settings = self.context.settings
        key: dict[str, Any] = {
            "demos": [store.digest() for store in self.stores],
            "policy": determining(settings.policy),
            "settings": settings.demos.model_dump(mode="json", exclude={"path"}),
        }
        if any(self.context.holdout.values()):
            key["held out"] = [self.context.holdout, settings.evaluation.seed]
        return key

    def check(self) -> None:
        """Raises UserError where they do not fit their environments (see `given.check`), and are
        fewer than the settings ask for; says how many of each are used.
        """
        stores = self.stores
        given.check(stores, self.context.specs, self.context.observed)
        for name in self.context.ids:
            wanted, there = self.context.settings.demos.wanted(name), self.steps().acted(name)
            if wanted is not None and len(there) < wanted:
                where = ", ".join(map(str, self.paths))
                raise UserError(
                    f"{where}: {len(there)} demonstrations of '{name}' to learn from; expected "
                    f"{wanted} (demos.episodes); give more, or lower it"
                )
        for line in given.shares(stores, self.steps(), self.held_out(), self.context.ids):
            print(line)
        for line in interventions.lines(self.whole(), self.context.settings.demos.interventions):
            print(line)


def of_stores(context: Context, paths: Sequence[Path | str]) -> Demonstrations:
    """Those in given stores, checked."""
    first, *others = map(place, paths)
    found = Demonstrations(context, first, tuple(others))
    found.check()
    return found


def record(context: Context, out: Path, rates: Path | None = None) -> None:
    """Episodes of the scripted experts into a store, which holds their rates (see
    `collection.collect`); the same as JSON in `rates`.
    """
    settings = context.settings
    own = settings.demos
    if own.path is not None:
        raise UserError(
            f"demos.path {', '.join(map(str, own.stores))} gives demonstrations, and those of "
            "experts are recorded here; expected one of both; leave --demos.path out, or join "
            "stores with `alltrades data merge`"
        )
    numbers = {spec.id: own.wanted(spec.id) for spec in context.demonstrating}
    episodes = {name: number for name, number in numbers.items() if number is not None}  # all

    def body(report: Report) -> None:
        found = collection.collect(
            context.demonstrating,
            episodes,
            settings.seed,
            out,
            settings.rollout,
            settings.demos.attempts,
            report.progress,
            keep=settings.demos.keep,
            code=context.store_code,
            crew=context.crew,
        )
        if rates is not None:
            write_json(rates, found)

    outputs = [out] if rates is None else [out, rates]
    key: dict[str, Any] = {"episodes": own.episodes, "path": None}
    key |= {"keep": own.keep, "ends": own.ends}
    if own.episodes_of:
        key["episodes of"] = own.episodes_of
    context.stage("demos", key, outputs, body, len(context.specs), "env")


def imported(context: Context, out: Path) -> None:
    """The demonstrations of the stores that the settings name, checked before they are copied and
    as they were read.
    """
    sources = context.settings.demos.stores
    stores = context.stores.all(sources)
    ours = [s for s in stores if given.converter_of(s, context.specs) is None]
    recorded = undrawn(context.specs, stores)
    if len(ours) == len(sources):
        kept = {s.id: context.observed[s.id] & s.observation.keys() for s in recorded}
        given.check(ours, recorded, kept)
    key = {"path": [str(source) for source in sources], "content": [s.digest() for s in stores]}

    def body(report: Report) -> None:
        if recorded == context.specs:
            collection.import_demos(context.specs, stores, out)
        else:  # what was recorded without pictures is played back
            states = context.work("demos") / "states.zarr"
            collection.import_demos(recorded, stores, states)
            render_store(states, out, context.specs, context.crew, report)
        look(out, context.specs, sources)

    context.stage("demos", key, [out], body, len(context.specs), "env")
    Demonstrations(context, out).check()


def record_held_out(context: Context, out: Path) -> None:
    """Further episodes of the scripted experts."""
    settings = context.settings

    def body(report: Report) -> None:
        collection.collect(
            context.demonstrating,
            HELD_OUT,
            settings.seed,
            out,
            settings.rollout,
            4 * settings.demos.attempts,
            report.progress,
            "held_out",
            settings.demos.keep,
            crew=context.crew,
        )

    key = {"episodes": HELD_OUT, "ends": settings.demos.ends}
    context.stage("held_out", key, [out], body, len(context.specs), "env")


def held_out(demos: Demonstrations, recorded: Path) -> Steps:
    """Demonstrations that nothing was trained on: recorded ones of the experts, or those of a given
    store that are held out, or behind the first; none where all of it is learned from.
    """
    context = demos.context
    if context.settings.demos.path is None:
        return context.stores.open(recorded).steps(context.ids)
    steps = demos.whole()
    keep = demos.held_out_mask(steps)
    for name in context.ids:
        used = context.settings.demos.wanted(name)
        if used is not None:
            own = steps.acted(name)
            own = own[~keep[own]]
            keep[own[used : used + HELD_OUT]] = True
    return steps.select(keep)
