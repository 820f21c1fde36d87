"""A session of recording by hand: episode after episode into a store, each when it is accepted."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alltrades.data.commit import occupied
from alltrades.data.episode import Episode
from alltrades.data.interface import Interface
from alltrades.data.store import EpisodeStore
from alltrades.envs.robots.robot import Robot
from alltrades.envs.rollouts.seeding import episode_seed
from alltrades.policies.acting import ActingPolicy
from alltrades.robots.signals import StopSignals
from alltrades.robots.teleop.attempt import Attempt
from alltrades.robots.teleop.desk import Desk
from alltrades.robots.teleop.station import Manner, Station

DEMOS, INTERVENTION = "demos", "intervention"  # streams of starts (see `episode_seed`)
RECORD = "by_hand"  # in a store's provenance: one entry for every session


@dataclass(frozen=True)
class Place:
    """One environment to record in.

    Attributes:
        robot, info: see `Station.of`.
        policy: acts while the person does nothing, with its name; None without one.
    """

    robot: Robot
    info: Interface
    policy: ActingPolicy | None = None
    name: str = ""


def open_store(path: Path, stack: ExitStack) -> EpisodeStore:
    """The store to record into, new or continued."""
    if occupied(path):
        store = EpisodeStore.open(path, "a")
    else:
        store = EpisodeStore.create(path, provenance={"kind": "by hand"})
    stack.callback(store.close)
    return store


def record(
    places: Sequence[Place],
    manner: Manner,
    out: Path,
    seed: int,
    desk: Desk,
    signals: StopSignals,
    episodes: int | None,
    facts: dict[str, Any],
) -> dict[str, int]:
    """Record until the person quits, or `episodes` of every environment are kept; how many were, by
    environment.

    Environments take turns, an episode each. An episode is in the store when this says so; starts
    are those of the stream of demonstrations, or of that of interventions with a policy, of `seed`:
    the first that the store has not.
    """
    kept = {p.info.id: 0 for p in places}
    wanted = float("inf") if episodes is None else episodes
    with ExitStack() as opened, ExitStack() as stack:
        station = _entered(places[0], manner, desk, signals, stack)
        store = open_store(out, opened)  # once all that can be refused was set up
        store.declare([station.info])
        entry = {**facts, "seed": seed, "first_episode": len(store)}
        store.set_provenance(**{RECORD: [*store.provenance.get(RECORD, []), entry]})
        while not signals.asked and min(kept.values()) < wanted:
            place = min(places, key=lambda p: kept[p.info.id])
            if place.info.id != station.info.id:
                stack.close()
                station = _entered(place, manner, desk, signals, stack)
                store.declare([station.info])
            name = place.info.id
            start = next_start(store, name, seed, DEMOS if place.policy is None else INTERVENTION)
            title = f"{name}: episode {kept[name] + 1}"
            attempt = Attempt(station, desk, signals, title)
            found = attempt.run(start)
            if attempt.verdict == "skip":
                _skip(store, name, start)
            elif attempt.verdict == "quit":
                break
            if found is not None:
                store.append([found])
                kept[name] += 1
                desk.say(f"{title} kept: {in_words(found)}")
    return kept


def _entered(
    place: Place, manner: Manner, desk: Desk, signals: StopSignals, stack: ExitStack
) -> Station:
    station = Station.of(place.robot, place.info, manner, desk, place.policy, place.name)
    stack.callback(station.close)
    signals.halting = lambda: station.loop.halting
    return station


def next_start(store: EpisodeStore, environment: str, root: int, purpose: str) -> int:
    """The first seed of a stream that neither an episode of the store has nor a person skipped."""
    columns, skipped = store.columns(), store.provenance.get("skipped", {})
    used = set(columns["seed"][columns["environment"] == environment].tolist())
    used |= set(skipped.get(environment, ()))
    index = 0
    while (seed := episode_seed(root, purpose, environment, index)) in used:
        index += 1
    return seed


def _skip(store: EpisodeStore, environment: str, seed: int) -> None:
    skipped = dict(store.provenance.get("skipped", {}))
    skipped[environment] = [*skipped.get(environment, ()), seed]
    store.set_provenance(skipped=skipped)


def in_words(episode: Episode) -> str:
    """What became of an episode."""
    told = {None: "success unknown", True: "success", False: "no success"}[episode.success]
    taken = episode.interventions
    by_hand = "" if taken is None else f", {int(np.sum(taken))} of them by hand"
    return f"{len(episode)} steps{by_hand}, {told}"
