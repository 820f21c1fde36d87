"""Stores that commands begin or go on with, and the demonstrations that fill one."""

from __future__ import annotations

import math
import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from alltrades.data.episode import Episode
from alltrades.data.steps import Steps
from alltrades.data.store import EpisodeStore
from alltrades.envs import registry
from alltrades.envs.rollouts.crew import Crew
from alltrades.envs.rollouts.faults import LEAST, Faults, from_json, to_json
from alltrades.envs.rollouts.rollout import Job, rollout
from alltrades.envs.rollouts.seeding import episode_seed
from alltrades.envs.spec import EnvSpec
from alltrades.errors import UserError
from alltrades.pipeline import given
from alltrades.pipeline.changes import code_changes, in_short
from alltrades.settings.rollouts import RolloutSettings

Each = Callable[[int, int], None]  # (done, total)
TOP = "top:"
EXPERT = "expert"  # source of the episodes that experts make


def collect(
    specs: Sequence[EnvSpec],
    episodes: int | Mapping[str, int],
    seed: int,
    path: Path,
    rollouts: RolloutSettings,
    attempts: int = 5,
    each: Each | None = None,
    purpose: str = "demos",
    keep: str | None = None,
    code: Mapping[str, str] | None = None,
    crew: Crew | None = None,
) -> dict[str, dict[str, Any]]:
    """Record episodes of the scripted experts; returns {environment: {"n", "successes", "kept",
    "return"}} of the experts, successes None where nothing says success.

    Environment by environment the first `episodes` successes (so many of each, or by its id) in the
    order of their seeds are kept, and where nothing says success the first episodes; attempts are
    counted up to the last one kept.
    `keep` says otherwise (see `DemoSettings.keep`): all of them, successes alone, or "top:SHARE",
    those of the highest return among so many more. `purpose` names the stream of starts. A store of
    the same seed is continued: by environments that it lacks, and by the episodes that follow those
    which it has, but for "top"; where `code` is given, by the code that began it alone. Tries
    that the environment could not finish count and are left out (provenance `faults`).

    `crew`: what steps environments; default this process, as for an expert that cannot be sent to
    another.
    """
    missing = [s.id for s in specs if registry.expert(s.id) is None]
    if missing:
        raise UserError(
            f"no scripted expert for {', '.join(missing)}; give --demos.path STORE, or register one"
        )
    facts = {"kind": "demonstrations", "seed": seed, "keep": keep}
    with (
        Crew(0) as here,
        open_or_create(path, specs, facts, grows=True, code=code) as store,
    ):
        rates: dict[str, dict[str, Any]] = dict(store.provenance.get("experts", {}))
        columns = store.columns()
        have = columns["environment"][columns["source"] == EXPERT]
        faults = Faults(rollouts.errors)
        faults.resume(from_json(store.provenance.get("faults", ())))
        for k, spec in enumerate(specs):
            there = int((have == spec.id).sum())
            number = episodes if isinstance(episodes, int) else episodes[spec.id]
            if there >= number:
                continue
            if there and keep is not None and keep.startswith(TOP):
                raise UserError(
                    f"{path}: has {there} episodes of '{spec.id}', the best of their tries; "
                    f"expected as many with --keep {keep}, which cannot be continued; choose "
                    "another path"
                )
            kept, rates[spec.id] = _demonstrations(
                spec,
                number,
                partial(episode_seed, seed, purpose, spec.id, block=spec.block),
                attempts,
                keep,
                crew if crew is not None and _sendable(spec) else here,
                faults,
            )
            # before the episodes: a kill in between repeats both
            store.set_provenance(experts=rates, **provenance_of(faults))
            store.append(kept[there:])
            if each is not None:
                each(k + 1, len(specs))
    return rates


def _sendable(spec: EnvSpec) -> bool:
    """Whether workers can have its expert; says so where they cannot."""
    try:
        pickle.dumps((spec.steps_alone, registry.expert(spec.id)))
    except Exception as error:  # whatever a user's class raises
        print(
            f"{spec.id}: it or its expert cannot be sent to a worker process ({error}), so it is "
            "stepped in this one, where nothing that hangs can be ended; expected functions and "
            "classes at the top of a module",
            file=sys.stderr,
        )
        return False
    return True


def provenance_of(faults: Faults) -> dict[str, Any]:
    """What a store says of the episodes that could not be finished, if there are any."""
    return {"faults": to_json(faults.found)} if faults.found else {}


def _demonstrations(
    spec: EnvSpec,
    episodes: int,
    starts: Callable[[int], int],
    attempts: int,
    keep: str | None,
    crew: Crew,
    faults: Faults,
) -> tuple[list[Episode], dict[str, Any]]:
    """What is kept of an expert's tries, on `starts` by number, and facts of them. No try is made
    whose outcome does not count.
    """
    kept: list[Episode] = []
    returns: list[float] = []
    successes, told = 0, False
    top = float(keep.removeprefix(TOP)) if keep is not None and keep.startswith(TOP) else None
    among = 0 if top is None else math.ceil(episodes / top - 1e-9)
    tried, most = 0, attempts * episodes if top is None else 2 * among + LEAST
    known = {f.seed for f in faults.found if f.environment == spec.id}
    while len(kept) < episodes or len(returns) < among:
        if tried >= most:
            raise _too_few(spec, episodes, tried, len(returns), len(kept) if told else None, keep)
        end = min(tried + max(episodes - len(kept), among - len(returns)), most)
        for episode in rollout(
            [Job(spec.id, x, "expert") for x in map(starts, range(tried, end)) if x not in known],
            {spec.id: spec},
            {},
            lanes=crew.hosts,
            source=EXPERT,
            crew=crew,
            faults=faults,
        ):
            if keep is None and not told and episode.success is not None:
                kept = []  # those before it said nothing, which now means: no success
            told = told or episode.success is not None
            returns.append(episode.return_)
            successes += bool(episode.success)
            if keep == "all" or top is not None or episode.success or (keep is None and not told):
                kept.append(episode)
            if top is not None and len(kept) > episodes:
                del kept[min(range(len(kept)), key=lambda i: (kept[i].return_, -i))]  # lowest, last
        tried = end
    return kept, {
        "n": tried,
        "successes": successes if told else None,
        "kept": len(kept),
        "return": float(np.mean(returns)),
    }


def _too_few(
    spec: EnvSpec, episodes: int, tried: int, finished: int, successes: int | None, keep: str | None
) -> UserError:
    if successes is not None:
        return UserError(
            f"the expert of '{spec.id}' succeeded in {successes} of {tried} tries; expected "
            f"{episodes} successes; raise --demos.attempts or mend the expert"
        )
    if keep == "successes" and finished:
        return UserError(
            f"nothing says success in {finished} episodes of '{spec.id}'; expected some with "
            "--keep successes; keep all or top:SHARE, or say what counts with --simulator.success"
        )
    return UserError(
        f"the expert of '{spec.id}' finished {finished} of {tried} episodes; expected {episodes} "
        "to keep; mend the environment, whose physics diverge, or the expert"
    )


def import_demos(specs: Sequence[EnvSpec], sources: Sequence[EpisodeStore], path: Path) -> None:
    """Copy demonstrations of these environments out of stores of ours, or foreign ones, into one
    of ours.
    """
    facts = {"kind": "demonstrations", "imported": [source.digest() for source in sources]}
    with open_or_create(path, specs, facts) as store:
        given.copy(sources, specs, store)


def open_or_create(
    path: Path,
    specs: Sequence[EnvSpec],
    provenance: dict[str, Any],
    grows: bool = False,
    code: Mapping[str, str] | None = None,
) -> EpisodeStore:
    """A store for these environments, to append to; the caller closes it.

    One that is there is continued where it was made from the same: UserError where the provenance
    that it recorded differs in one of the given facts, or in its environments, to which `grows`
    allows others to be added; and where other code began it than `code`, if that is given. Such a
    one without episodes, as a command that failed leaves it, is begun again.
    """
    asked = [[s.id, s.interface.digest()] for s in specs]
    interfaces = [s.interface for s in specs]
    facts = provenance | {"environments": asked} | ({} if code is None else {"code": code})
    if not (path / "commit.json").exists():
        return EpisodeStore.create(path, interfaces, facts)
    store = EpisodeStore.open(path, mode="a")
    environments = _with_others(store, asked) if grows else asked
    other = _other_origin(store, provenance, environments, grows, code or {})
    if other is not None and not len(store):
        store.begin_again(interfaces, facts)
    elif other is not None:
        store.close()
        raise UserError(f"{path}: a store is there already and {other}")
    elif store.provenance.get("environments") != environments:
        began = store.provenance.get("code") or {}
        more = {} if code is None else {"code": {**began, **code}}
        store.set_provenance(environments=environments, **more)
    return store


def _with_others(store: EpisodeStore, asked: Sequence[list[str]]) -> list[list[str]]:
    """The environments [id, digest] of a store as they are asked for, then those it lacks."""
    known = dict(asked)
    before = {name: known.get(name, digest) for name, digest in _recorded(store)}
    return [[name, digest] for name, digest in (before | known).items()]


def _recorded(store: EpisodeStore) -> list[list[str]]:
    return list(store.provenance.get("environments", []))


def _other_origin(
    store: EpisodeStore,
    provenance: Mapping[str, Any],
    environments: Sequence[list[str]],
    grows: bool,
    code: Mapping[str, str],
) -> str | None:
    """Why a store cannot be gone on with, in words; None where it can."""
    began = store.provenance.get("code") or {}
    both = began.keys() & code.keys()  # further environments bring further code
    if changes := code_changes(*({n: c[n] for n in both} for c in (began, code))):
        return (
            f"other code began it ({in_short(changes)}); expected the same, to go on with; choose "
            "another path, delete the store, or go on with --no-same_code"
        )
    recorded = _recorded(store)
    recorded += environments[len(recorded) :] if grows else []
    for what, value in {**provenance, "environments": environments}.items():
        there = recorded if what == "environments" else store.provenance.get(what)
        if there != value:
            return (
                f"{_differing(what, there, value)}; expected one made from the same, to go on "
                "with; choose another path, or delete the store"
            )
    return None


def _differing(what: str, there: Any, here: Any) -> str:
    """What two unequal facts differ in, in words."""
    if not isinstance(here, (dict, list)):
        return f"its {what} is {'not recorded' if there is None else there}, not {here}"
    a, b = dict(there or {}), dict(here)
    names = [name for name in (*b, *a) if a.get(name) != b.get(name)]
    return f"its {what} differ{f' for {names[0]}' if names else ' in their order'}"


def steps_of(stores: Sequence[EpisodeStore], environments: Sequence[str]) -> Steps:
    """All episodes of some environments in some stores, one store after another."""
    parts = [store.steps(environments) for store in stores]
    return parts[0] if len(parts) == 1 else Steps.concatenate(parts)


def first_demos(
    steps: Steps,
    environments: Sequence[str],
    episodes: Callable[[str], int | None],
    left_out: Callable[[Steps], np.ndarray] | None = None,
) -> Steps:
    """The first demonstrations of each environment, as many as `episodes` says of it (all where
    None), and all episodes without actions; without those that `left_out` chooses, a mask (E,).
    """
    keep = np.ones(len(steps.ends), bool) if left_out is None else ~left_out(steps)
    for name in environments:
        mine = steps.acted(name)
        mine = mine[keep[mine]]
        if (number := episodes(name)) is not None:
            keep[mine[number:]] = False
    return steps.select(keep)
