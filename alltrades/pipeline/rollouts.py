"""The stage of rollouts: what the teachers of a generalist do on starts of their own."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alltrades.data.episode import Episode
from alltrades.data.steps import Steps
from alltrades.data.store import EpisodeStore
from alltrades.envs.rollouts.faults import LEAST, Faults, from_json
from alltrades.envs.rollouts.rollout import Job, rollout
from alltrades.envs.rollouts.seeding import episode_seed
from alltrades.envs.rollouts.statistics import mean_interval
from alltrades.errors import UserError
from alltrades.pipeline.acting import Policies, controllers_of, load_policies
from alltrades.pipeline.artifacts import policy_digests
from alltrades.pipeline.collection import open_or_create, provenance_of
from alltrades.pipeline.context import Context
from alltrades.pipeline.drawing import drawn_later, drawn_of, looked_at, pictured
from alltrades.pipeline.logs import logs_of
from alltrades.policies.fetched import fetched
from alltrades.settings.distill import DistillSettings
from alltrades.system.files import slug
from alltrades.system.remote.place import place
from alltrades.system.reporting import Report


@dataclass(frozen=True)
class Teacher:
    """Whose rollouts a generalist learns from.

    Attributes:
        name: that its episodes are recorded under.
        policies: its artifacts.
        rollouts: the store of its rollouts.
        pictures: stores with what cameras see of them, where they were recorded without, in the
            order in which they are drawn. They need not be there.
    """

    name: str
    policies: Path
    rollouts: Path
    pictures: tuple[Path, ...] = ()


def parse_teacher(word: str, folder: Path) -> Teacher:
    """The teacher that is written NAME=POLICIES:ROLLOUTS; pictures of its rollouts are to lie in
    `folder`.

    Raises UserError for other words, and for a store whose episodes were not recorded under that
    name.
    """
    name, _, rest = word.partition("=")
    *folders, store = re.split(r":(?!//|\d+/)", rest)  # no colon of an address
    policies = ":".join(folders)
    if not (name and policies and store):
        raise UserError(
            f"--teacher {word}; expected NAME=POLICIES:ROLLOUTS, such as "
            "scratch=specialists:rollouts.zarr"
        )
    sources = {str(s) for s in EpisodeStore.open(store).columns()["source"]}
    others = sorted(sources - {name})
    if others:
        raise UserError(
            f"--teacher {word}: episodes of {store} were recorded by '{others[0]}'; expected "
            f"'{name}'; write {others[0]}={rest}"
        )
    pictures = folder / f"pictures_{slug(name)}.zarr"
    return Teacher(name, fetched(policies), place(store), (pictures,))


def roll_out(
    context: Context,
    teacher: Teacher,
    episodes: int,
    preference: Mapping[str, float] | None = None,
) -> None:
    """A teacher's rollouts, so many episodes per environment; a store that has some is continued.
    What cameras see of them is left out where it can be drawn later (see `drawn_later`).

    `preference`: what policies that take one act by.
    """
    name, out = f"rollouts/{teacher.name}", teacher.rollouts
    key = {
        "policies": policy_digests(teacher.policies),
        "episodes": episodes,
        **context.settings.rollout.acting(),
    }
    if context.settings.rendering.cameras:
        key["cameras"] = list(context.settings.rendering.cameras)
    stored = _episodes(out) // max(1, len(context.simulated))
    if stored > episodes and context.done(name, key | {"episodes": stored}):
        return  # a generalist that has gone since needed more

    def body(report: Report) -> None:
        policies = load_policies(
            teacher.policies, context.simulated, context.settings.device, preference
        )
        record(context, policies, teacher.name, episodes, context.seed(name), out, report)

    context.unsimulated(name, "not rolled out")
    context.stage(name, key, [out], body, episodes * len(context.simulated), "episode")


def record(
    context: Context,
    policies: Policies,
    teacher: str,
    episodes: int,
    seed: int,
    out: Path,
    report: Report | None = None,
) -> None:
    """Roll every environment's policy out; episodes are ordered by index, then environment, and
    appended in that order.

    Those that their environment could not finish are left out (provenance `faults`), and as many
    further indices take their place. A store that exists is continued: episode i depends on its
    index only. UserError for one of other policies, environments, teacher or seed.
    """
    settings, report = context.settings.rollout, report or Report()
    digests = {name: p.digest() for name, p in policies.items()}
    facts = {"kind": "rollouts", "teacher": teacher, "seed": seed, "policies": digests}
    controllers, keys = controllers_of(policies, settings)
    later, looked = drawn_later(context), looked_at(context, policies)
    blind = {name for name in later if not looked[name]}
    specs = {s.id: s.without_pictures if s.id in blind else s for s in context.practised}
    faults = Faults(settings.errors)

    def jobs(index: int, names: Iterable[str]) -> list[Job]:
        every = [
            Job(i, episode_seed(seed, "rollout", i, index, specs[i].block), keys[i]) for i in names
        ]
        return [job for job in every if (job.environment, job.seed) not in over]

    def run(jobs: Sequence[Job]) -> None:
        buffer: list[Episode] = []

        def append() -> None:
            if len(faults.found) > len(store.provenance.get("faults", ())):
                store.set_provenance(**provenance_of(faults))
            store.append(buffer)
            buffer.clear()

        for episode in rollout(
            jobs,
            specs,
            controllers,
            lanes=settings.lanes,
            source=teacher,
            crew=context.crew,
            faults=faults,
            images=specs.keys() - later,
        ):
            have[episode.environment] += 1
            buffer.append(episode)
            # an append costs the same for few steps as for many, and more for more environments
            if len(buffer) >= max(32, 4 * len(specs)) and sum(map(len, buffer)) >= 1024:
                append()
            report.progress(have.total(), episodes * len(specs))
        append()

    described = [s.without_pictures if s.id in later else s for s in specs.values()]
    with open_or_create(out, described, facts, code=context.store_code) as store:
        faults.resume(from_json(store.provenance.get("faults", ())))
        over = {(f.environment, f.seed) for f in faults.found}
        have: Counter[str] = Counter()
        if len(store):
            columns = store.columns()
            over |= {(str(e), int(x)) for e, x in zip(columns["environment"], columns["seed"])}
            have.update(map(str, columns["environment"]))
        faults.expect(have.elements())
        run([job for i in range(episodes) for job in jobs(i, specs)])
        for i in range(episodes, 2 * episodes + LEAST):
            short = [name for name in specs if have[name] < episodes]
            if not short:
                return
            run(jobs(i, short))
    for name in short:
        print(f"{name}: {have[name]} of {episodes} rollouts; the others diverged", file=sys.stderr)


def rollout_statistics(path: Path, episodes: int | None = None) -> dict[str, dict[str, Any]]:
    """{environment: {"n", "steps", "successes", "return", "return_interval"}} of a store; successes
    None where nothing says success, the interval (95 %, of the mean) for a single episode.

    Args:
        episodes: of each environment, the first ones; None: all.
    """
    steps = EpisodeStore.open(path).steps()
    return {
        str(name): outcomes(steps.choose(steps.numbers(name)[:episodes]))
        for name in np.unique(steps.environment)
    }


def outcomes(steps: Steps) -> dict[str, Any]:
    """What became of the episodes of one environment."""
    interval = mean_interval(steps.return_)
    return {
        "n": len(steps.ends),
        "successes": int(steps.episode_success.sum()) if steps.tells_success else None,
        "steps": len(steps),
        "return": float(steps.return_.mean()),
        "return_interval": None if interval is None else list(interval),
    }


def first_numbers(store: EpisodeStore, environments: Sequence[str], episodes: int) -> np.ndarray:
    """(n,) numbers of the first `episodes` of each environment in a store, and of those without
    actions, in order.
    """
    acted = store.columns()["has_actions"]
    mine = [np.zeros(0, np.int64)]
    for own in map(store.numbers, environments):
        mine += [own[acted[own]][:episodes], own[~acted[own]]]
    return np.sort(np.concatenate(mine))


def first_rollouts(
    context: Context,
    stores: Sequence[Path],
    episodes: int,
    pictures: Mapping[Path, Sequence[Path]] | None = None,
) -> Steps:
    """The first `episodes` rollouts per environment of every store, with what stores of `pictures`
    have of it.
    """
    parts = []
    for path in stores:
        store = context.stores.open(path)
        every = np.sort(np.concatenate([np.zeros(0, np.int64), *map(store.numbers, context.ids)]))
        drawn = drawn_of(context, store, (pictures or {}).get(path, ()))
        steps = pictured(store.steps(context.ids), every, drawn)
        parts.append(steps.select(np.isin(every, first_numbers(store, context.ids, episodes))))
    return Steps.concatenate(parts)


def rollouts_and_logs(
    context: Context,
    stores: Sequence[Path],
    settings: DistillSettings,
    demos: Sequence[EpisodeStore],
    pictures: Mapping[Path, Sequence[Path]] | None = None,
) -> Steps:
    """What a generalist learns of beside the demonstrations in the stores `demos`: the first
    rollouts of every store, then its logs.
    """
    steps = first_rollouts(context, stores, settings.rollouts, pictures)
    logs = logs_of(settings, context.ids, demos, context.stores)
    return context.images.of(steps if logs is None else Steps.concatenate([steps, logs]))


def check_rollouts(context: Context, stores: Sequence[Path]) -> None:
    """Raises UserError for a store that is named twice, and for one without an episode of the run's
    environments.
    """
    for i, path in enumerate(stores):
        if path in stores[:i]:
            raise UserError(f"{path} is named twice; expected each store of rollouts once")
        store = context.stores.open(path)
        if len(store) and not any(len(store.numbers(name)) for name in context.ids):
            raise UserError(
                f"{path}: no episodes of {', '.join(context.ids[:4])}; expected rollouts of them; "
                "give another store"
            )


def digest_of_first(context: Context, store: Path, episodes: int) -> str:
    """Digest of the part of a store that holds the first `episodes` of every environment."""
    found = context.stores.open(store)
    ends = [found.numbers(i)[:episodes][-1:] + 1 for i in context.ids]
    return found.digest(int(max(np.concatenate(ends), default=0)))


def _episodes(path: Path) -> int:
    """Episodes in a store; 0 for one that is missing or damaged, which its stage then makes
    again.
    """
    try:
        return len(EpisodeStore.open(path))
    except UserError:
        return 0
