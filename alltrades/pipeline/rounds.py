"""Rounds after stage 2: the generalist visits new starts, and trains on what a verifier or a better
teacher makes of them.

With `teacher: self` its successful episodes join the rows. A start that fails is tried again with
exploration until it succeeds, so that hard starts are covered as well as easy ones: without it the
successes of a policy only teach it what it can do already. With `teacher: best` the states that it
visits are labelled by the best teacher of each environment, at no cost in demonstrations (on-policy
distillation); where no teacher is better, its own successes enter.

A round helps where success on selection starts, which nothing trains on, is higher with it than
with the best before it. The best is kept; so many in a row that do not help (`rounds.patience`) end
the rounds.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alltrades.data.episode import Episode
from alltrades.data.store import EpisodeStore
from alltrades.envs.rollouts.evaluation import Evaluation, paired_difference
from alltrades.envs.rollouts.rollout import Crew, Job, rollout
from alltrades.envs.rollouts.seeding import episode_seed, selection_seeds
from alltrades.envs.rollouts.statistics import wilson
from alltrades.envs.spec import EnvSpec
from alltrades.pipeline import collection, stages
from alltrades.pipeline.acting import acting, load_policies
from alltrades.pipeline.rundir import policy_digest
from alltrades.policies.control.exploration import ExploringController
from alltrades.policies.learning.distillation import RECORDED
from alltrades.policies.model.policy import DiffusionPolicy
from alltrades.settings.run import DistillSettings, RolloutSettings, RoundSettings
from alltrades.system.progress import Progress

if TYPE_CHECKING:
    from alltrades.pipeline.pipeline import Pipeline


@dataclass(frozen=True)
class Visit:
    """Episodes of a round; by environment the kind of teacher ("self" for their own success) and
    its index.
    """

    path: Path
    teachers: dict[str, str]
    teacher_of_environment: dict[str, int]


def visit(
    policy: DiffusionPolicy,
    specs: Sequence[EnvSpec],
    settings: RoundSettings,
    seed: int,
    source: str,
    path: Path,
    rollouts: RolloutSettings,
    crew: Crew | None = None,
    each: collection.Each | None = None,
) -> None:
    """Roll a generalist out on new starts into a store: every first try, and the successes of later
    ones.

    Interrupted, it repeats the try of all starts that it was at. The store's provenance holds, per
    try, {environment: {"n", "successes"}}.
    """
    store = collection.open_or_create(
        path, specs, {"kind": "round", "seed": seed, "policy": policy.digest()}
    )
    starts = [
        (s.id, episode_seed(seed, "round", s.id, i))
        for i in range(settings.episodes)
        for s in specs
    ]
    tries: list[dict[str, dict[str, int]]] = list(store.provenance.get("tries", []))
    if tries and len(store) < len(starts) + sum(
        t["successes"] for of_try in tries[1:] for t in of_try.values()
    ):
        tries.pop()  # its episodes were not committed
    for attempt in range(len(tries), settings.tries):
        columns = store.columns()
        solved = {
            (str(e), int(x))
            for e, x, ok in zip(columns["environment"], columns["seed"], columns["success"])
            if ok
        }
        missing = [start for start in starts if start not in solved]
        if not missing:
            break
        batch = min(rollouts.batch, rollouts.lanes)
        controller = ExploringController(
            acting(policy, rollouts, batch),
            rollouts.lanes,
            attempt,
            settings.explore,
            settings.renew,
            batch,
        )
        kept: list[Episode] = []
        counts = {
            name: {"n": 0, "successes": 0} for name in dict.fromkeys(name for name, _ in missing)
        }
        for episode in rollout(
            [Job(name, x, "policy") for name, x in missing],
            {s.id: s for s in specs},
            {"policy": controller},
            workers=rollouts.worker_count(),
            lanes=rollouts.lanes,
            source=source,
            crew=crew,
        ):
            counts[episode.environment]["n"] += 1
            counts[episode.environment]["successes"] += episode.success
            if episode.success or attempt == 0:
                kept.append(episode)
            if each is not None:
                each(sum(c["n"] for c in counts.values()), len(missing))
        tries.append(counts)
        store.set_provenance(tries=tries)  # before the episodes: a kill in between repeats both
        store.append(kept)


def best_teachers(statistics: Mapping[str, Mapping[str, Mapping[str, int]]]) -> dict[str, str]:
    """Per environment the policy whose success has the highest lower end of its 95 % interval; the
    first named wins ties.

    `statistics`: {policy: {environment: {"n", "successes"}}}, each on starts that are new to that
    policy: for a teacher those of its rollouts, for the generalist ("self") the first tries of its
    visit. They are draws of one law, though not the same starts, and leave the selection starts to
    the judgement of rounds. Fewer episodes mean a lower end further down.
    """
    names = dict.fromkeys(name for of_policy in statistics.values() for name in of_policy)
    return {
        name: max(
            (kind for kind in statistics if name in statistics[kind]),
            key=lambda kind: wilson(
                statistics[kind][name]["successes"], statistics[kind][name]["n"]
            )[0],
        )
        for name in names
    }


def run_rounds(p: Pipeline, row: str, settings: DistillSettings) -> None:
    """Rounds of one generalist, from its artifact ROW_round0 to the one that is kept, ROW."""
    rounds = settings.rounds
    best, measured = 0, _select(p, row, 0, settings)
    idle = 0  # rounds since the last one that helped
    report: list[dict[str, Any]] = [{"round": 0, "selection": measured.mean()[0]}]
    visits: tuple[Visit, ...] = ()
    for r in range(1, rounds.count + 1):
        last = p.policy_path(f"{row}_round{r - 1}")
        visits += (_visit(p, row, r, settings, last),)
        p.check_starts({f"round {r}": visits[-1].path})
        p.train_generalist(
            row, settings, f"{row}_round{r}", visits, last if rounds.init == "previous" else None
        )
        found = _select(p, row, r, settings)
        gain = paired_difference(found, measured)
        report.append(
            {
                "round": r,
                "selection": found.mean()[0],
                "gain": gain.mean,
                "interval": list(gain.interval),
                "teachers": visits[-1].teachers,
                "tries": EpisodeStore.open(visits[-1].path).provenance["tries"],
            }
        )
        if gain.mean > 0:
            best, measured, idle = r, found, 0
        else:
            idle += 1
        if idle == rounds.patience:
            break
    p.dir.write_json(
        f"rounds/{row}.json", {"rounds": [{**r, "kept": r["round"] == best} for r in report]}
    )
    chosen, out = p.policy_path(f"{row}_round{best}"), p.policy_path(row)

    def keep(_: Progress) -> None:
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(chosen, out)

    p.stage(f"keep/{row}", {"policy": policy_digest(chosen)}, [out], keep)


def _visit(p: Pipeline, row: str, r: int, settings: DistillSettings, policy: Path) -> Visit:
    """The generalist's episodes of round `r`, and who labels them."""
    rounds, name = settings.rounds, f"visit/{row}/{r}"
    path = p.dir.path / "stores" / f"{row}_round{r}.zarr"

    def body(progress: Progress) -> None:
        found = load_policies(policy, p.specs, p.s.device)[p.ids[0]]
        visit(
            found,
            p.specs,
            rounds,
            stages.stage_seed(p.s.seed, name),
            f"{row} round {r}",
            path,
            p.s.rollout,
            p.crew,
            lambda done, total: progress.update(done),
        )

    key = {
        "policy": policy_digest(policy),
        **p.s.rollout.acting(),
        "rounds": rounds.model_dump(mode="json", include={"episodes", "tries", "explore", "renew"}),
    }
    p.stage(name, key, [path], body, rounds.episodes * len(p.specs), "episode")
    statistics: dict[str, Any] = {"self": EpisodeStore.open(path).provenance["tries"][0]}
    if rounds.teacher == "best":
        statistics |= {k: stages.rollout_statistics(p.rollouts_path(k)) for k in settings.teachers}
    teachers = best_teachers(statistics)
    index = {k: i for i, k in enumerate(settings.teachers)} | {"self": RECORDED}
    return Visit(path, teachers, {name: index[kind] for name, kind in teachers.items()})


def _select(p: Pipeline, row: str, r: int, settings: DistillSettings) -> Evaluation:
    """Success on selection starts, the same for every round."""
    name, policy = f"{row}_round{r}", p.policy_path(f"{row}_round{r}")
    out = p.dir.path / "selection" / f"{name}.json"
    episodes = settings.rounds.selection

    def body(progress: Progress) -> None:
        policies = load_policies(policy, p.specs, p.s.device)
        result = stages.evaluate_row(
            name,
            policies,
            p.specs,
            p.s,
            True,
            p.crew,
            lambda done, total: progress.update(done),
            {s.id: selection_seeds(s, p.s.seed, episodes) for s in p.specs},
        )
        p.dir.write_json(f"selection/{name}.json", result.to_json())

    p.stage(
        f"select/{name}",
        {"policy": policy_digest(policy), "episodes": episodes, **p.s.rollout.acting()},
        [out],
        body,
        episodes * len(p.specs),
        "episode",
    )
    return Evaluation.from_json(json.loads(out.read_text()))
