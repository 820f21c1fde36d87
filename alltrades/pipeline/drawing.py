"""Pictures of rollouts that were recorded without, drawn of what is looked at.

A teacher that sees states alone needs no pictures to act, one that looks needs those of the steps
before which it plans, and from most failures nothing is learned: so rollouts are recorded without
pictures, and episodes of which something is learned by a network that looks are played back and
drawn. They lie in stores of pictures beside the rollouts. A store says of which episodes its
pictures are, by their numbers, and of which of their steps, by a stride: k > 0 are every k-th one
from the last back, -k all but these.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from alltrades.data.episode import Episode
from alltrades.data.fields import Observation
from alltrades.data.rows import Rows
from alltrades.data.steps import Steps
from alltrades.data.store import EpisodeStore
from alltrades.envs.rollouts.rendering import render_episodes
from alltrades.envs.spec import EnvSpec
from alltrades.pipeline.acting import Policies
from alltrades.pipeline.collection import open_or_create
from alltrades.pipeline.context import Context
from alltrades.system.reporting import Report


def drawn_later(context: Context) -> set[str]:
    """The environments with cameras whose episodes can be played back: they are recorded without
    pictures. None where `rendering.cameras` names some: these are recorded as they are.
    """
    if context.settings.rendering.cameras:
        return set()
    return {spec.id for spec in context.simulated if _made(spec) and spec.reproducible}


def looked_at(context: Context, policies: Policies) -> dict[str, set[str]]:
    """By environment, the fields of its cameras that its policy sees."""
    return {
        spec.id: {
            name
            for e in policies[spec.id].environments
            if e.id == spec.id
            for name in _made(spec) & e.observation.keys()
        }
        for spec in context.simulated
    }


def lacking(context: Context, rollouts: EpisodeStore) -> dict[str, set[str]]:
    """By environment, the fields of cameras that a store was recorded without."""
    known = rollouts.interfaces()
    found = {
        spec.id: _made(spec) - known[spec.id].observation.keys()
        for spec in context.simulated
        if spec.id in known
    }
    return {name: fields for name, fields in found.items() if fields}


def draw(
    context: Context,
    stage: str,
    rollouts: EpisodeStore,
    wanted: Mapping[int, int],
    out: Path,
    others: Sequence[Path] = (),
) -> None:
    """Play episodes of a store back and write what its environments' cameras see into another.
    After an interrupt it goes on where it was.

    Args:
        wanted: stride of the steps that are drawn, by number of the episode.
        others: where stores may be of what was drawn before: of whole episodes (stride 1) only the
            other steps are drawn.

    Raises UserError for an episode that differs when it is played back.
    """
    there = {n: k for store in drawn_of(context, rollouts, others) for n, k in _listed(store)}
    strides = {n: -there[n] if k == 1 and n in there else k for n, k in sorted(wanted.items())}
    lengths = np.diff(rollouts.episode_ends, prepend=0)
    strides = {n: k for n, k in strides.items() if len(positions(int(lengths[n]), k))}
    if not strides:
        return
    facts = _facts(context, rollouts) | {"episodes": list(strides), "strides": [*strides.values()]}
    specs = {s.id: s for s in context.practised}
    made = {s.id: {n: f for n, f in s.observation.items() if n in _made(s)} for s in specs.values()}
    shown = [
        EnvSpec.recorded(replace(s.interface, observation=made[s.id]))
        for s in specs.values()
        if made[s.id]
    ]

    def body(report: Report) -> None:
        with open_or_create(out, shown, facts, code=context.store_code) as store:
            before, total = len(store), len(strides)
            left = list(strides)[before:]
            found = render_episodes(
                specs,
                map(rollouts.episode, left),
                sorted(set().union(*made.values())),
                steps=_Strides([strides[n] for n in left]),
                place=False,
                crew=context.crew,
                progress=lambda done: report.progress(before + done, total),
            )
            columns = rollouts.columns()
            store.extend(_pictures(columns, n, seen) for seen, n in zip(found, left))

    context.stage(stage, facts, [out], body, len(strides), "episode")


class _Strides:
    """The steps that are drawn of episodes, which are asked for in their order."""

    def __init__(self, strides: Sequence[int]) -> None:
        self._next = iter(strides)

    def __call__(self, episode: Episode) -> Sequence[int]:
        return positions(len(episode), next(self._next)).tolist()


def positions(length: int, stride: int) -> np.ndarray:
    """(n,) the steps of an episode that a stride means, ascending."""
    every = np.arange(length)[::-1] % abs(stride) == 0
    return np.flatnonzero(every if stride > 0 else ~every)


def drawn_of(context: Context, rollouts: EpisodeStore, paths: Sequence[Path]) -> list[EpisodeStore]:
    """The stores among `paths` that have pictures of these very rollouts, by the cameras of now."""
    stores = [context.stores.open(path) for path in paths if (path / "commit.json").exists()]
    facts = _facts(context, rollouts)
    return [s for s in stores if facts == {name: s.provenance.get(name) for name in facts}]


def pictured(steps: Steps, numbers: np.ndarray, drawn: Sequence[EpisodeStore]) -> Steps:
    """Steps of some episodes of a store, with the pictures that other stores have of them; those of
    other steps stay absent. Nothing is read.

    Args:
        numbers: (E,) of the episodes in the store.
    """
    if not drawn:
        return steps
    place = {int(number): e for e, number in enumerate(numbers)}
    parts, where, first = [], np.full(len(steps), -1), 0
    for store in drawn:
        own = store.steps()
        for k, (number, stride) in enumerate(_listed(store)):
            if number in place:
                e = place[number]
                at = steps.starts[e] + positions(int(steps.lengths[e]), stride)
                where[at] = first + own.starts[k] + np.arange(len(at))
        parts.append(own)
        first += len(own)
    rest = np.flatnonzero(where < 0)
    where[rest] = first + rest  # what the steps have by themselves
    fields = {}
    for name in dict.fromkeys(name for own in parts for name in own.observation):
        every = [s.observation.get(name) or Rows.absent(len(s)) for s in (*parts, steps)]
        fields[name] = Rows.concatenate(every).between(where, where + 1)
    return replace(steps, observation={**steps.observation, **fields})


def _listed(store: EpisodeStore) -> Iterator[tuple[int, int]]:
    """Number and stride of the episodes that a store of pictures has."""
    facts = store.provenance
    return zip(facts["episodes"][: len(store)], facts["strides"])


def _facts(context: Context, rollouts: EpisodeStore) -> dict[str, Any]:
    """What all pictures of rollouts depend on."""
    made = {s.id: s.rendering.described() for s in context.simulated if s.rendering is not None}
    return {"kind": "pictures", "from": "last", "rollouts": rollouts.digest(), "rendering": made}


def _made(spec: EnvSpec) -> set[str]:
    return set() if spec.rendering is None else set(spec.rendering.images)


def _pictures(columns: Mapping[str, np.ndarray], number: int, seen: Observation) -> Episode:
    """What was drawn of an episode, as one without actions."""
    name, source, seed = (columns[c][number] for c in ("environment", "source", "seed"))
    count = len(next(iter(seen.values())))
    nothing = np.zeros(count, np.float32), np.zeros(count, bool)
    return Episode(seen, None, *nothing, str(name), str(source), int(seed), None, None, 0.0)
