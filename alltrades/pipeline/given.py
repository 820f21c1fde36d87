"""Stores of demonstrations that are given: what environments they have, and whether they fit."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from alltrades.data.agreement import other_fields, other_numbers, outside_box, united
from alltrades.data.episode import Episode
from alltrades.data.interface import Interface
from alltrades.data.ranges import ACTION
from alltrades.data.steps import Steps
from alltrades.data.store import EpisodeStore
from alltrades.envs.spec import EnvSpec
from alltrades.errors import UserError

Converter = Callable[[EpisodeStore], Sequence[Episode]]


def environments_of(stores: Sequence[EpisodeStore]) -> list[Interface]:
    """The environments of which some stores have episodes, in the order in which they are met; a
    foreign store's is named after its folder.

    Raises UserError where two stores describe one differently, and where there is none.
    """
    found: dict[str, Interface] = {}
    for store in stores:
        there = store.recorded
        for name, interface in store.interfaces().items():
            if name not in there:
                continue
            try:
                found[name] = united(found[name], interface) if name in found else interface
            except ValueError as wrong:
                raise UserError(
                    f"{store.path}: '{name}' is not as in the stores before: {wrong}; expected one "
                    "environment under one name; record it under another"
                ) from wrong
    if not found:
        where = ", ".join(str(s.path) for s in stores)
        raise UserError(f"{where}: no episodes; expected some; record demonstrations")
    return list(found.values())


def check(
    stores: Sequence[EpisodeStore],
    specs: Sequence[EnvSpec],
    needed: Mapping[str, Collection[str]],
) -> None:
    """Raises UserError, in one line, where demonstrations do not fit their environments: a field
    that is missing or of another kind or shape, other action sizes, actions outside the box,
    another control rate, episodes beyond the time limit; and where an environment has none. What
    either does not know is no error.

    Args:
        needed: by environment, the fields that some network sees.

    Reads actions, where the store does not say how far they reach, and no observation.
    """
    whole = [(s, s.interfaces(), s.steps([spec.id for spec in specs])) for s in stores]
    for spec in specs:
        silent = count = 0
        for store, interfaces, steps in whole:
            found, acted = interfaces.get(spec.id), steps.acted(spec.id)
            silent += len(steps.numbers(spec.id)) - len(acted)
            count += len(acted)
            known = (store.ranges(spec.id) or {}).get(ACTION)
            wrong = found and _misfit(found, spec, steps.choose(acted), needed[spec.id], known)
            if wrong:
                raise UserError(f"{store.path}: demonstrations of '{spec.id}': {wrong}")
        where = ", ".join(str(s.path) for s in stores)
        if silent and not count:
            raise UserError(
                f"{where}: the {silent} episodes of '{spec.id}' have no actions, and some of them "
                "must; give others with --demos, and these with --distill.logs"
            )
        if not count:
            raise UserError(
                f"{where}: no episodes of '{spec.id}'; expected demonstrations of it; `alltrades "
                "data info` lists what there is; record some, or name other --environments"
            )


def _misfit(
    found: Interface,
    spec: EnvSpec,
    steps: Steps,
    needed: Collection[str],
    known: tuple[np.ndarray, np.ndarray] | None,
) -> str | None:
    """What is wrong with an environment's demonstrations, and what to do; `known`: the least and
    largest of its actions.
    """
    expected = spec.interface
    wanted = {name: f for name, f in expected.observation.items() if name in needed}
    there = {name: f for name, f in found.observation.items() if name in wanted}
    wrong = other_fields(there or found.observation, wanted)
    drawn = () if spec.rendering is None else spec.rendering.names
    undrawn = [name for name in drawn if name in wanted and name not in there]
    if wrong is not None and undrawn and wanted.keys() - undrawn == there.keys():
        return (
            f"{wrong}; expected what its cameras see; draw it: alltrades render STORE --out SEEN "
            f"--policy.observe '{json.dumps(list(wanted))}'"
        )
    if wrong is not None:
        return (
            f"{wrong}; expected what the environment observes; record that, or name what networks "
            "see: --policy.observe, --specialist.observe"
        )
    wrong = other_numbers(found, expected)
    if wrong is not None:
        return f"{wrong}; expected what the environment declares; record them as it is, or mend it"
    if not len(steps.ends):
        return None
    wrong = outside_box(steps.action, expected.action, known)
    if wrong is not None:
        return f"{wrong}; record actions in the environment's units, or widen its box"
    longest = int(steps.lengths.max())
    if expected.max_steps is not None and longest > expected.max_steps:
        return (
            f"{int((steps.lengths > expected.max_steps).sum())} of {len(steps.ends)} episodes are "
            f"longer than its time limit, the longest has {longest} steps; expected at most "
            f"{expected.max_steps}; cut them, or raise its max_steps"
        )
    return None


def copy(stores: Sequence[EpisodeStore], specs: Sequence[EnvSpec], store: EpisodeStore) -> None:
    """Append the episodes of the environments, with the fields that these have, behind those that
    an earlier copy left. Few are in memory at a time.
    """
    wanted, skipped = {spec.id: spec for spec in specs}, len(store)

    def episodes() -> Iterator[Episode]:
        seen = 0
        for found in stores:
            converter = converter_of(found, specs)
            if converter is not None:
                converted = converter(found)
                yield from converted[max(0, skipped - seen) :]
                seen += len(converted)
                continue
            for i in np.flatnonzero(np.isin(found.columns()["environment"], list(wanted))):
                seen += 1
                if seen > skipped:
                    yield _without_further(found.episode(int(i)), wanted)

    store.extend(episodes())


def converter_of(store: EpisodeStore, specs: Sequence[EnvSpec]) -> Converter | None:
    """How an environment reads a foreign store, unless the store is asked for as it is. Raises
    UserError where neither is the case.
    """
    own = [str(name) for name in np.unique(store.columns()["environment"])]
    if not store.foreign or {spec.id for spec in specs} & set(own):
        return None
    found = next((spec.import_demos for spec in specs if spec.import_demos is not None), None)
    if found is None:
        raise UserError(
            f"{store.path}: a foreign store, which names no environments, and none of "
            f"{', '.join(spec.id for spec in specs)} can read it; expected a store that alltrades "
            f"wrote, or --environments of one that can, or [{own[0]}] for what it records"
        )
    return found


def _without_further(episode: Episode, specs: Mapping[str, EnvSpec]) -> Episode:
    """An episode without the fields that its environment does not have."""
    known = specs[episode.environment].observation
    kept = {name: value for name, value in episode.observations.items() if name in known}
    return (
        episode if len(kept) == len(episode.observations) else replace(episode, observations=kept)
    )


def shares(
    stores: Sequence[EpisodeStore], used: Steps, held_out: Steps, ids: Sequence[str]
) -> list[str]:
    """How many demonstrations of each environment are used, in words: "206 of 206 episodes"; and
    how many of them are held out.
    """
    counts: Counter[str] = Counter()
    for store in stores:
        columns = store.columns()
        counts.update(columns["environment"][columns["has_actions"]].tolist())
    lines = []
    for name in ids:
        there, mine, kept = counts[name], len(used.acted(name)), len(held_out.numbers(name))
        more = f", {kept} of them held out" if kept else ""
        lines.append(f"demonstrations of {name}: {mine + kept} of {there} episodes{more}")
    return lines
