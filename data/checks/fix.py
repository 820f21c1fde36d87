"""A cleaned copy of a store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from alltrades.data.checks.duplicates import Duplicates
from alltrades.data.checks.examine import Examined
from alltrades.data.checks.foreign import APART, RawArray, raw_arrays
from alltrades.data.checks.idle import Idle
from alltrades.data.checks.subject import ACTION
from alltrades.data.episode import Episode, from_first, succeeded
from alltrades.data.store import EpisodeStore
from alltrades.errors import UserError
from alltrades.system.files import remove

DROPPED = {
    "not finite": "numbers that are not finite",
    "short": "one or two steps",
    "frozen": "a camera that shows one picture for most of it",
    "black": "pictures of one colour",
}
KEEP = 2  # idle steps that stay at each end: a policy has to begin, and to stop


def write_fixed(
    stores: Sequence[EpisodeStore], examined: Sequence[Examined], out: Path
) -> list[str]:
    """Write the episodes of stores, checked, into a new store at `out`: without those that are
    broken, that are equal to an earlier one or in which nothing moves, and without idle heads and
    tails beyond KEEP steps, up to a first success. What was not said to be wrong stays as it is.

    Returns what was changed, one line each; the store's provenance holds them and the sources'.
    Raises UserError where something is at `out`, and where nothing would be left.
    """
    if out.exists():
        raise UserError(
            f"{out}: something is there already; expected a new path; choose another, or delete it"
        )
    changes: list[str] = []
    facts = {
        "kind": "cleaned",
        "sources": [
            {"path": str(s.path), "digest": s.digest(), "provenance": s.provenance} for s in stores
        ],
    }
    if len(stores) == 1:
        facts = {**stores[0].provenance, **facts}
    partial = out.with_name(f".{out.name}.cleaning")
    remove(partial)
    try:
        with EpisodeStore.create(partial, provenance=facts) as copy:
            for store in stores:
                mine = [e for e in examined if e.subject.store == store.path]
                declared = [e.subject.own for e in mine if e.subject.own is not None]
                copy.declare(declared)
                copy.extend(_kept(store, mine, changes))
            if not len(copy):
                raise UserError(
                    f"{out}: no episode is left of {sum(map(len, stores))}; expected some that are "
                    "whole; nothing was written"
                )
            copy.set_provenance(changes=changes)
        partial.rename(out)
    finally:
        remove(partial)
    return changes


def _kept(
    store: EpisodeStore, examined: Sequence[Examined], changes: list[str]
) -> Iterator[Episode]:
    """Episodes in the order of the store, as they are to be."""
    place = {int(n): (e, i) for e in examined for i, n in enumerate(e.subject.episodes)}
    why: dict[int, str] = {}
    for e in examined:
        numbers = e.subject.episodes
        for check in e.checks:
            if isinstance(check, Idle):
                why |= {int(numbers[i]): "nothing moves" for i in check.whole}
        for f in e.found:
            if f.severity == "error" and f.episode is not None and f.kind in DROPPED:
                why[f.episode] = DROPPED[f.kind]
        for check in e.checks:
            if isinstance(check, Duplicates):
                equal = {int(numbers[i]): int(numbers[k]) for i, k in check.equal.items()}
                told = {
                    f.episode for f in e.found if (f.kind, f.severity) == ("duplicate", "error")
                }
                why |= {
                    i: f"equal to episode {k}"
                    for i, k in equal.items()
                    if i in told and i not in why and k not in why
                }
    flags = {n: a for n, a in raw_arrays(store.path).items() if n in APART} if store.foreign else {}
    for number in range(len(store)):
        e, i = place[number]
        if number in why:
            changes.append(f"{store.path}: episode {number} left out: {why[number]}")
            continue
        episode = _episode(store, e, number, i, flags)
        first, stop = _ends(e, i, episode)
        if stop - first < len(episode):
            changes.append(
                f"{store.path}: episode {number} cut to steps {first} to {stop - 1} of "
                f"{len(episode)}: nothing moves in the others"
            )
            episode = _cut(episode, first, stop)
        yield episode


def _ends(examined: Examined, i: int, episode: Episode) -> tuple[int, int]:
    idle = next(c for c in examined.checks if isinstance(c, Idle))
    first = max(0, idle.heads.get(i, 0) - KEEP)
    stop = len(episode) - max(0, idle.tails.get(i, 0) - KEEP)
    if episode.first_success is not None and episode.first_success > 0:
        first, stop = min(first, episode.first_success - 1), max(stop, episode.first_success)
    return first, max(stop, first + 1)


def _cut(episode: Episode, first: int, stop: int) -> Episode:
    """Some steps of an episode."""
    observations: dict[str, Any] = {
        k: v if isinstance(v, str) else v[first:stop] for k, v in episode.observations.items()
    }
    rewards, successes = episode.rewards[first:stop], episode.successes[first:stop]
    hit, when = succeeded(successes)
    known = episode.first_success is not None
    return replace(
        episode,
        observations=observations,
        actions=None if episode.actions is None else episode.actions[first:stop],
        rewards=rewards,
        successes=successes,
        interventions=None if episode.interventions is None else episode.interventions[first:stop],
        success=hit if known else None,
        first_success=when if known else None,
        return_=float(rewards.sum(dtype=np.float64)),
        timestamps=None
        if episode.timestamps is None
        else from_first(episode.timestamps[first:stop]),
    )


def _episode(
    store: EpisodeStore, e: Examined, number: int, i: int, flags: Mapping[str, RawArray]
) -> Episode:
    """One episode; of a foreign store with all its arrays."""
    if not store.foreign:
        return store.episode(number)
    subject = e.subject
    start = int(subject.start[i])
    stop = start + int(subject.length[i])
    values = {n: a.read(start, stop) for n, a in {**subject.numbers, **subject.images}.items()}
    reward, success = (
        flags[n].read(start, stop)[:, 0] if n in flags and n not in subject.odd else None
        for n in APART[1:]
    )
    actions = values.pop(ACTION, None)
    return Episode.from_arrays(values, actions, subject.environment, reward, success, seed=number)
