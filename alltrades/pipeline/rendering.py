"""Stores with the pictures of episodes that were recorded without."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from alltrades.data.episode import Episode
from alltrades.data.interface import Interface
from alltrades.data.store import EpisodeStore
from alltrades.envs.rollouts.crew import Crew
from alltrades.envs.rollouts.rendering import Frames, render_episodes
from alltrades.envs.spec import EnvSpec
from alltrades.errors import UserError
from alltrades.system.reporting import Report

APPEND = 16  # episodes of an append, at most
BYTES = 2**26  # of pictures that wait for it


def render_store(
    source: Path,
    out: Path,
    specs: Sequence[EnvSpec],
    crew: Crew,
    report: Report | None = None,
    frames: Path | None = None,
) -> EpisodeStore:
    """Write the episodes of a store into another, with what the cameras of `specs` would have seen.

    Everything else of them stays as it is, and so does their order. A store that is there already
    is continued by the episodes that it lacks: after an interrupt, or when `source` has grown.

    Args:
        specs: of every environment of the store; of those with cameras (see `with_cameras`)
            pictures are drawn.
        frames: folder where pictures are kept, and found again (see `Frames`).

    Raises UserError for episodes that cannot be played back (see `render_episode`), and for a store
    `out` of other episodes or other pictures.
    """
    given, made, report = EpisodeStore.open(source), {s.id: s for s in specs}, report or Report()
    seen = {name: _seen(e, made[name]) for name, e in given.interfaces().items()}
    rendering = {name: spec.rendering.described() for name, spec in made.items() if spec.rendering}
    kept = None if frames is None else Frames(frames)
    with _opened(given, out, seen, rendering) as store:
        first, total = len(store), len(given)
        read = (given.episode(i) for i in range(first, total))
        pictures = render_episodes(
            made,
            read,
            crew=crew,
            frames=kept,
            progress=lambda done: report.progress(first + done, total),
        )
        waiting: list[Episode] = []
        for i, found in enumerate(pictures, first):
            episode = given.episode(i)
            waiting.append(replace(episode, observations=episode.observations | found))
            if len(waiting) >= APPEND or sum(e.nbytes for e in waiting) >= BYTES:
                store.append(waiting)
                waiting = []
        store.append(waiting)
    return EpisodeStore.open(out)


def _seen(recorded: Interface, spec: EnvSpec) -> Interface:
    """A recorded environment with what is drawn of it."""
    names = () if spec.rendering is None else spec.rendering.names
    made = {name: spec.observation[name] for name in names}
    return replace(recorded, observation={**recorded.observation, **made})


def _opened(
    given: EpisodeStore, out: Path, seen: Mapping[str, Interface], rendering: Mapping[str, Any]
) -> EpisodeStore:
    facts = {**given.provenance, "rendering": dict(rendering)}
    if not (out / "commit.json").exists():
        return EpisodeStore.create(out, list(seen.values()), facts)
    store = EpisodeStore.open(out, mode="a")
    try:
        if store.provenance.get("rendering") != facts["rendering"]:
            raise UserError(
                f"{out}: a store is there already, of other pictures; expected one that was begun "
                "with the same cameras, size, style and randomize; choose another path, or "
                "delete it"
            )
        for name in ("environment", "seed", "source"):
            mine, theirs = store.columns()[name], given.columns()[name]
            if len(mine) > len(theirs) or (np.asarray(mine) != theirs[: len(mine)]).any():
                raise UserError(
                    f"{out}: a store is there already, of other episodes than {given.path}; "
                    "expected its first ones; choose another path, or delete it"
                )
    except UserError:
        store.close()
        raise
    return store


def undrawn(specs: Sequence[EnvSpec], sources: Sequence[EpisodeStore]) -> tuple[EnvSpec, ...]:
    """The specifications, of whose fields those are left out that cameras make and recordings do
    not have: what can be asked of the recordings before they are drawn.
    """
    out, known = [], [source.interfaces() for source in sources]
    for spec in specs:
        there = [e for e in (interfaces.get(spec.id) for interfaces in known) if e]
        names = () if spec.rendering is None else spec.rendering.names
        lacks = any(name not in e.observation for e in there for name in names)
        out.append(spec.without_rendering if lacks or not there else spec)
    return tuple(out)


def cameras_of(specs: Sequence[EnvSpec], source: Path) -> Iterator[str]:
    """What is drawn of each environment, in words.

    Raises UserError for one of which nothing is, or which cannot be stepped.
    """
    for spec in specs:
        if not spec.simulated or spec.rendering is None:
            has = ", ".join(spec.cameras) or "none"
            raise UserError(
                f"{source}: nothing is drawn of '{spec.id}'; expected cameras that it has ({has}); "
                "name them with --rendering.cameras"
            )
        fields = spec.rendering.images | {n: spec.observation[n] for n in spec.rendering.parts}
        yield f"{spec.id}: {', '.join(f'{name} ({f})' for name, f in fields.items())}"
