"""Stores that commands begin or go on with, and the demonstrations that fill one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from alltrades.data.agreement import other_fields
from alltrades.data.episode import Episode
from alltrades.data.steps import Steps
from alltrades.data.store import EpisodeStore
from alltrades.envs import registry
from alltrades.envs.rollouts.rollout import Job, rollout
from alltrades.envs.rollouts.seeding import episode_seed
from alltrades.envs.spec import EnvSpec
from alltrades.errors import UserError
from alltrades.pipeline import given
from alltrades.settings.parts import RolloutSettings

Each = Callable[[int, int], None]  # (done, total)


def collect(
    specs: Sequence[EnvSpec],
    episodes: int,
    seed: int,
    path: Path,
    rollouts: RolloutSettings,
    attempts: int = 5,
    each: Each | None = None,
    purpose: str = "demos",
) -> dict[str, dict[str, int]]:
    """Record successful episodes of the scripted experts; returns {environment: {"n", "successes"}}
    of the experts.

    Environment by environment the first `episodes` successes in the order of their seeds are kept;
    attempts are counted up to the last one kept. `purpose` names the stream of starts. A store of
    the same seed is continued: by environments that it lacks, and by the episodes that follow those
    which it has.
    """
    missing = [s.id for s in specs if registry.expert(s.id) is None]
    if missing:
        raise UserError(
            f"no scripted expert for {', '.join(missing)}; give --demos.path STORE, or register one"
        )
    with open_or_create(path, specs, {"kind": "demonstrations", "seed": seed}, grows=True) as store:
        rates: dict[str, dict[str, int]] = dict(store.provenance.get("experts", {}))
        have = store.columns()["environment"] if len(store) else np.array([])
        for k, spec in enumerate(specs):
            there = int((have == spec.id).sum())
            if there >= episodes:
                continue
            kept: list[Episode] = []
            tried, step = 0, max(4, episodes)
            while len(kept) < episodes:
                if tried >= attempts * episodes:
                    raise UserError(
                        f"the expert of '{spec.id}' succeeded in {len(kept)} of {tried} tries; "
                        f"expected {episodes} successes; raise --demos.attempts or mend the expert"
                    )
                jobs = [
                    Job(spec.id, episode_seed(seed, purpose, spec.id, i), "expert")
                    for i in range(tried, tried + step)
                ]
                for episode in rollout(
                    jobs, {spec.id: spec}, {}, workers=0, lanes=1, source="expert"
                ):
                    tried += 1
                    if episode.success:
                        kept.append(episode)
                    if len(kept) == episodes:
                        break
            rates[spec.id] = {"n": tried, "successes": episodes}
            store.set_provenance(
                experts=rates
            )  # before the episodes: a kill in between repeats both
            store.append(kept[there:])
            if each is not None:
                each(k + 1, len(specs))
    return rates


def import_demos(specs: Sequence[EnvSpec], sources: Sequence[Path], path: Path) -> None:
    """Copy demonstrations of these environments out of stores of ours, or foreign ones, into one
    of ours.
    """
    digests = [EpisodeStore.open(source).digest() for source in sources]
    facts = {"kind": "demonstrations", "imported": digests}
    with open_or_create(path, specs, facts) as store:
        given.copy(sources, specs, store)


def open_or_create(
    path: Path, specs: Sequence[EnvSpec], provenance: dict[str, Any], grows: bool = False
) -> EpisodeStore:
    """A store for these environments, to append to; the caller closes it.

    One that is there is continued where it was made from the same: UserError where the provenance
    that it recorded differs in one of the given facts, or in its environments, to which `grows`
    allows others to be added.
    """
    environments = [[s.id, s.interface.digest()] for s in specs]
    if not (path / "commit.json").exists():
        return EpisodeStore.create(
            path,
            [s.interface for s in specs],
            provenance | {"environments": environments},
        )
    store = EpisodeStore.open(path, mode="a")
    recorded = list(store.provenance.get("environments", []))
    if grows:
        ids = [name for name, _ in recorded]
        environments = [
            next(([s.id, s.interface.digest()] for s in specs if s.id == name), [name, digest])
            for name, digest in recorded
        ]
        environments += [[s.id, s.interface.digest()] for s in specs if s.id not in ids]
        recorded += environments[len(recorded) :]
    for what, value in {**provenance, "environments": environments}.items():
        there = recorded if what == "environments" else store.provenance.get(what)
        if there != value:
            store.close()
            raise UserError(
                f"{path}: a store is there already and {_differing(what, there, value)}; expected "
                "one made from the same, to go on with; choose another path, or delete the store"
            )
    if store.provenance.get("environments") != environments:
        store.set_provenance(environments=environments)
    return store


def _differing(what: str, there: Any, here: Any) -> str:
    """What two unequal facts differ in, in words."""
    if not isinstance(here, (dict, list)):
        return f"its {what} is {'not recorded' if there is None else there}, not {here}"
    a, b = dict(there or {}), dict(here)
    names = [name for name in (*b, *a) if a.get(name) != b.get(name)]
    return f"its {what} differ{f' for {names[0]}' if names else ' in their order'}"


def steps_of(paths: Sequence[Path], environments: Sequence[str]) -> Steps:
    """All episodes of some environments in some stores, one store after another."""
    return Steps.concatenate([EpisodeStore.open(path).steps(environments) for path in paths])


def first_demos(
    paths: Sequence[Path],
    environments: Sequence[str],
    episodes: int | None,
    observations: str | None = None,
    left_out: Callable[[Steps], np.ndarray] | None = None,
) -> Steps:
    """The first `episodes` demonstrations of each environment (all with None) of some stores, one
    after another, and all their episodes without actions; without those that `left_out` chooses,
    a mask (E,).

    `observations`: a store whose episodes join those without actions; what actions it has are not
    looked at. UserError where it has none of these environments, or other fields.
    """
    steps = steps_of(paths, environments)
    keep = np.ones(len(steps.ends), bool) if left_out is None else ~left_out(steps)
    for name in environments:
        mine = np.flatnonzero((steps.environment == name) & steps.has_actions & keep)
        if episodes is not None:
            keep[mine[episodes:]] = False
    steps = steps.select(keep)
    if observations is None:
        return steps
    others = EpisodeStore.open(Path(observations))
    found, known = others.steps(environments), {e.id: e for e in given.environments_of(paths)}
    if not len(found.ends):
        raise UserError(
            f"{observations}: no episodes of {', '.join(environments)}; `alltrades data info` "
            "lists what it has"
        )
    for name, interface in others.interfaces().items():
        wrong = name in known and other_fields(interface.observation, known[name].observation)
        if wrong:
            raise UserError(
                f"{observations}: observations of '{name}' are others than those of the "
                f"demonstrations: {wrong}; expected the same; record them in the same environment"
            )
    return Steps.concatenate([steps, replace(found, has_actions=np.zeros(len(found.ends), bool))])
