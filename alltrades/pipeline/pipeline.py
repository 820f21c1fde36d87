"""The stages of a run: demonstrations, stage 1, rollouts, weights, stage 2, measurement.
`runner.py` has their order.

Every stage is recorded in the run folder's manifest under a key made of its settings and of the
digests of its inputs: a stage whose key did not change is not run again, and a killed run goes on
where it was.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

from alltrades.data.store import EpisodeStore
from alltrades.data.weights.estimate import WeightResult
from alltrades.envs.rollouts.evaluation import Evaluation
from alltrades.envs.rollouts.rollout import Crew
from alltrades.envs.rollouts.seeding import (
    check_disjoint,
    evaluation_seeds,
    plot_seeds,
    selection_seeds,
)
from alltrades.errors import UserError
from alltrades.pipeline import collection, stages
from alltrades.pipeline.acting import (
    Policies,
    check_engine,
    load_policies,
    prefer,
    slug,
    used_success_signal,
)
from alltrades.pipeline.advice import HELD_OUT
from alltrades.pipeline.beside import Beside
from alltrades.pipeline.manifest import key_digest
from alltrades.pipeline.rounds import Visit, run_rounds
from alltrades.pipeline.rundir import RunDir, policy_digest, policy_digests
from alltrades.policies.learning.objectives import ObjectiveSettings
from alltrades.report import text
from alltrades.settings.rows import Row
from alltrades.settings.run import DistillSettings, RunSettings
from alltrades.system.progress import Progress
from alltrades.system.reporting import Report
from alltrades.system.tracking import Tracker

DRAWN = 4  # episodes per environment and row in the report's trajectory plots
AVERAGES = "labeled_only_averages"  # of labeled-only networks, for their held-out forms


class Pipeline:
    """The stages of one run in one folder; `run(settings)` of runner.py calls them."""

    def __init__(self, settings: RunSettings, rundir: RunDir, tracker: Tracker) -> None:
        check_engine(settings.rollout)
        self.s, self.dir, self.tracker = settings, rundir, tracker
        self.crew, self.beside = (
            Crew(settings.rollout.worker_count()),
            Beside(settings.training_count()),
        )
        self.specs, self.left_out = stages.resolve(settings)
        self.ids = [spec.id for spec in self.specs]
        self.base = {
            "seed": settings.seed,
            "environments": {
                s.id: [s.interface.digest(), s.max_steps, repr(s.symmetries)] for s in self.specs
            },
        }

    # ---- paths -----------------------------------------------------------------------------------
    @property
    def demos_path(self) -> Path:
        return self.dir.path / "stores" / "demos.zarr"

    @property
    def held_out_path(self) -> Path:
        return self.dir.path / "stores" / "held_out.zarr"

    def rollouts_path(self, kind: str) -> Path:
        return self.dir.path / "stores" / f"rollouts_{kind}.zarr"

    def policy_path(self, row: Row | str) -> Path:
        """Artifact of a row, or of any other name; for specialists a folder with one artifact per
        environment.
        """
        if isinstance(row, Row) and row.specialists:
            return self.dir.path / "policies" / "specialists" / row.teacher
        return self.dir.path / "policies" / str(row)

    def teacher_path(self, name: str) -> Path:
        return self.policy_path(Row.of_teacher(name))

    # ---- helpers ---------------------------------------------------------------------------------
    def stage(
        self,
        name: str,
        key: dict[str, Any],
        outputs: list[Path],
        body: Callable[[Progress], None],
        total: int = 1,
        unit: str = "it",
    ) -> None:
        """Run `body` with a progress line unless the manifest shows it done with this key."""

        def work() -> None:
            with Progress(name, total, unit, check=self.beside.check) as progress:
                body(progress)

        self.dir.manifest.stage(name, self.base | key, outputs, work)

    def work(self, stage: str) -> Path:
        return self.dir.work(stage)

    def report(self, stage: str, progress: Progress) -> Report:
        return Report(progress.update, self.tracker.log, stage)

    def demos(self) -> Any:
        return collection.first_demos(
            self.demos_path, self.ids, self.s.demos.episodes, self.s.demos.observations
        )

    def demos_key(self) -> dict[str, Any]:
        key = {
            "demos": EpisodeStore.open(self.demos_path).digest(),
            "policy": self.s.policy.model_dump(mode="json"),
            "settings": self.s.demos.model_dump(mode="json", exclude={"observations"}),
        }
        if self.s.demos.observations is not None:
            key["observations"] = EpisodeStore.open(Path(self.s.demos.observations)).digest()
        return key

    # ---- stages ----------------------------------------------------------------------------------
    def collect(self) -> None:
        s = self.s
        key: dict[str, Any] = {"episodes": s.demos.episodes, "path": s.demos.path}
        if s.demos.path is not None:
            key["content"] = EpisodeStore.open(Path(s.demos.path)).digest()

        def body(progress: Progress) -> None:
            if s.demos.path is not None:
                collection.import_demos(self.specs, Path(s.demos.path), self.demos_path)
            else:
                rates = collection.collect(
                    self.specs,
                    s.demos.episodes,
                    s.seed,
                    self.demos_path,
                    s.rollout,
                    s.demos.attempts,
                    lambda done, total: progress.update(done),
                )
                self.dir.write_json("experts.json", rates)

        outputs = (
            [self.demos_path]
            if s.demos.path is not None
            else [self.demos_path, self.dir.path / "experts.json"]
        )
        self.stage("demos", key, outputs, body, len(self.specs), "env")

    def collect_held_out(self) -> None:
        """Further episodes of the scripted experts."""
        s = self.s

        def body(progress: Progress) -> None:
            collection.collect(
                self.specs,
                HELD_OUT,
                s.seed,
                self.held_out_path,
                s.rollout,
                4 * s.demos.attempts,
                lambda done, total: progress.update(done),
                "held_out",
            )

        self.stage(
            "held_out", {"episodes": HELD_OUT}, [self.held_out_path], body, len(self.specs), "env"
        )

    def train_labeled_only(
        self,
        row: Row,
        name: str | None = None,
        preference: Mapping[str, float] | None = None,
        objective: ObjectiveSettings | None = None,
        other: Event | None = None,
    ) -> None:
        """The baseline after all its steps, or after those that held-out demonstrations prefer,
        into the artifact `name`, by default that of the row.

        The held-out form takes its weights from the averages that the other one kept on its way,
        where they are there after `other`, and trains them otherwise. `objective` and `preference`
        are linear and uniform unless given; excess losses are those over the scratch specialists.
        """
        s, name = self.s, name or str(row)
        seed = stages.stage_seed(s.seed, str(replace(row, kind="labeled_only")))
        key = self.demos_key() | {"train": s.training.of(s.labeled_only).determining()}
        if objective is not None:
            key |= {
                "preference": dict(preference or {}),
                "objective": objective.model_dump(mode="json"),
                "reference": policy_digests(self.teacher_path("scratch"))
                if objective.excess
                else None,
            }

        def body(progress: Progress) -> None:
            excess = objective is not None and objective.excess
            reference = (
                load_policies(self.teacher_path("scratch"), self.specs, s.device)
                if excess
                else None
            )
            stages.train_labeled_only(
                s,
                self.specs,
                self.demos(),
                self.policy_path(name),
                self.work(name),
                seed,
                "holdout" if row.held_out else "last",
                self.report(name, progress),
                averages=self.work(AVERAGES)
                / key_digest(self.base | key | {"training seed": seed}),
                selected=None if other is None else other.wait,
                preference=preference,
                objective=objective,
                reference=reference,
            )

        self.stage(
            name,
            key,
            [self.policy_path(name)],
            body,
            s.labeled_only.steps * (2 if row.held_out else 1),
            "step",
        )

    def train_specialists(self, row: Row) -> None:
        """All specialists of a teacher in one stage: those of equal shape are trained together."""
        s = self.s
        name = f"specialists/{row.teacher}"
        out = self.policy_path(row)
        joint = (
            self.policy_path(replace(row, kind="labeled_only"))
            if row.kind == "joint_init"
            else None
        )
        key = self.demos_key() | {
            "specialist": s.specialist.model_dump(mode="json"),
            "train": s.training.of(s.specialist.train).determining(),
            "initial": policy_digest(joint) if joint else None,
        }
        if joint is None:  # their own architecture: the generalist's may change
            key |= {
                "policy": [
                    policy.model_dump(mode="json") for _, policy, _ in s.specialist_candidates()
                ]
            }
        found: list[str | None] = []
        self.stage(
            name,
            key,
            [out],
            lambda p: found.append(
                stages.train_specialists(
                    s,
                    row,
                    self.specs,
                    self.demos(),
                    joint,
                    out,
                    self.work(name),
                    self.report(name, p),
                    self.beside,
                )
            ),
            unit="step",
        )
        if found and found[0] is not None:
            print(f"{name}: {found[0]}", file=sys.stderr)

    def roll_out(self, kind: str, episodes: int) -> None:
        s = self.s
        path, name = self.rollouts_path(kind), f"rollouts/{kind}"
        key = {
            "policies": policy_digests(self.teacher_path(kind)),
            "episodes": episodes,
            **s.rollout.acting(),
        }
        if (stored := self._rolled_out(path)) > episodes and self.dir.manifest.done(
            name, self.base | key | {"episodes": stored}
        ):
            return  # a generalist that has gone since needed more

        def body(progress: Progress) -> None:
            policies = load_policies(self.teacher_path(kind), self.specs, s.device)
            stages.rollout_store(
                policies,
                self.specs,
                episodes,
                stages.stage_seed(s.seed, f"rollouts/{kind}"),
                kind,
                path,
                s.rollout,
                crew=self.crew,
                each=lambda done, total: progress.update(done),
            )

        self.stage(name, key, [path], body, episodes * len(self.specs), "episode")

    def _rolled_out(self, path: Path) -> int:
        """Episodes per environment in a store; 0 for one that is missing or damaged, which its
        stage then makes again.
        """
        try:
            return len(EpisodeStore.open(path)) // len(self.specs)
        except UserError:
            return 0

    def distill(self, row: str, settings: DistillSettings) -> None:
        """One generalist: weights, stage 2, rounds."""
        stores, weights_path = self.teacher_stores(settings), self.dir.path / "weights" / row

        def weigh(progress: Progress) -> None:
            rollouts = stages.union_of_rollouts(stores, self.specs, settings.rollouts)
            seed = stages.stage_seed(self.s.seed, f"distill/{row}")
            results = stages.weigh(
                self.demos(), rollouts, settings, seed, lambda done, total: progress.update(done)
            )
            for name, result in results.items():
                result.save(weights_path / slug(name))
            self.dir.write_json(
                f"weights/{row}.json", {name: r.summary() for name, r in results.items()}
            )

        key = self.stage2_key(stores, settings.rollouts) | {
            "n": settings.rollouts,
            "weights": settings.weights.model_dump(mode="json"),
        }
        del key["policy"]  # states only
        self.stage(f"weigh/{row}", key, [weights_path], weigh, len(self.specs), "env")
        warnings = {i: WeightResult.load(weights_path / slug(i)).warnings for i in self.ids}
        for line in text.weight_warnings(warnings):
            print(f"weights of {row}: {line}", file=sys.stderr)
        self.train_generalist(row, settings, row if settings.rounds.count == 0 else f"{row}_round0")
        if settings.rounds.count:
            run_rounds(self, row, settings)

    def teacher_stores(self, settings: DistillSettings) -> dict[str, Path]:
        return {kind: self.rollouts_path(kind) for kind in settings.teachers}

    def stage2_key(self, stores: dict[str, Path], episodes: int) -> dict[str, Any]:
        """Demonstrations and the rollouts that are used of each store, whose episodes go round all
        environments.
        """
        first = episodes * len(self.specs)
        return self.demos_key() | {
            "rollouts": {k: EpisodeStore.open(p).digest(first) for k, p in stores.items()}
        }

    def train_generalist(
        self,
        row: str,
        settings: DistillSettings,
        name: str,
        visits: tuple[Visit, ...] = (),
        initial: Path | None = None,
        seed_of: str | None = None,
    ) -> None:
        """Stage 2 of the generalist of `row` into the artifact `name`, in a round with what was
        visited since.

        `initial`: artifact to go on from, in place of `settings.init`; `seed_of`: artifact whose
        seed is used for its own.
        """
        s = self.s
        stores, stage = self.teacher_stores(settings), f"distill/{name}"
        weights_path = self.dir.path / "weights" / row
        train_settings = s.training.of(settings.rounds.train if visits else settings.train)
        if initial is None and settings.init == "labeled_only":
            initial = self.policy_path("labeled_only")

        def train(progress: Progress) -> None:
            rollouts = stages.union_of_rollouts(stores, self.specs, settings.rollouts)
            weights = {i: WeightResult.load(weights_path / slug(i)) for i in self.ids}
            teachers: dict[str, Policies] = {
                k: load_policies(self.teacher_path(k), self.specs, s.device)
                for k in settings.teachers
            }
            found = [
                (EpisodeStore.open(v.path).steps(self.ids), v.teacher_of_environment)
                for v in visits
            ]
            stages.distill(
                s,
                settings,
                self.specs,
                self.demos(),
                rollouts,
                weights,
                teachers,
                initial,
                self.policy_path(name),
                self.work(stage),
                stages.stage_seed(s.seed, f"distill/{seed_of or name}"),
                found,
                train_settings,
                self.report(stage, progress),
            )

        key = self.stage2_key(stores, settings.rollouts) | {
            "distill": settings.model_dump(mode="json", exclude={"rounds", "train"}),
            "train": train_settings.determining(),
            "teachers": {k: policy_digests(self.teacher_path(k)) for k in settings.teachers},
            "initial": policy_digest(initial) if initial else None,
        }
        if visits:
            key |= {
                "share": settings.rounds.share,
                "teachers of visits": [v.teacher_of_environment for v in visits],
                "visits": [EpisodeStore.open(v.path).digest() for v in visits],
            }
        self.stage(stage, key, [self.policy_path(name)], train, train_settings.steps, "step")

    def evaluate(
        self, row: str, path: Path | None = None, preference: Mapping[str, float] | None = None
    ) -> Evaluation:
        """Success of a row on the common starts; `path` and `preference`: of its policies, where
        they are not the row's own.
        """
        s = self.s
        path, preference = (
            path or self.policy_path(self.s.rows().get(row, row)),
            dict(preference or s.evaluation.preference),
        )
        out = self.dir.path / "evaluation" / f"{row}.json"
        key = {
            "policies": policy_digests(path),
            "episodes": s.evaluation.episodes,
            "starts": s.evaluation.seed,
            "preference": preference,
            **s.rollout.acting(),
        }

        def body(progress: Progress) -> None:
            policies = prefer(load_policies(path, self.specs, s.device), preference)
            used = used_success_signal(path)
            result = stages.evaluate_row(
                row,
                policies,
                self.specs,
                s,
                used,
                self.crew,
                lambda done, total: progress.update(done),
            )
            self.dir.write_json(f"evaluation/{row}.json", result.to_json())

        self.stage(
            f"evaluate/{row}", key, [out], body, s.evaluation.episodes * len(self.specs), "episode"
        )
        return Evaluation.from_json(json.loads(out.read_text()))

    def draw(self, *rows: str) -> None:
        """Record a few trajectories of some rows for the report."""
        s = self.s

        def body(progress: Progress) -> None:
            found = {
                row: stages.trajectories(
                    load_policies(self.policy_path(s.rows()[row]), self.specs, s.device),
                    self.specs,
                    DRAWN,
                    s.seed,
                    s.rollout,
                    self.crew,
                )
                for row in rows
            }
            self.dir.write_json(
                "trajectories.json", {i: {row: found[row][i] for row in rows} for i in self.ids}
            )

        key = {
            "policies": {row: policy_digests(self.policy_path(s.rows()[row])) for row in rows},
            "episodes": DRAWN,
            "starts": "plot",
        }
        self.stage("trajectories", key, [self.dir.path / "trajectories.json"], body)

    def check_starts(self, stores: dict[str, Path]) -> None:
        """Evaluation starts must be disjoint from every other use: episodes of these stores,
        selection, plots.
        """
        judged = max(
            (d.rounds.selection for d in self.s.distillations().values() if d.rounds.count),
            default=0,
        )
        uses = {
            "selection": [
                (spec.id, seed)
                for spec in self.specs
                for seed in selection_seeds(spec, self.s.seed, judged)
            ],
            "plots": [
                (spec.id, seed)
                for spec in self.specs
                for seed in plot_seeds(spec, self.s.seed, DRAWN)
            ],
        }
        for name, path in stores.items():
            columns = EpisodeStore.open(path).columns()
            uses[name] = [(str(e), int(x)) for e, x in zip(columns["environment"], columns["seed"])]
        uses["evaluation"] = [
            (spec.id, seed)
            for spec in self.specs
            for seed in evaluation_seeds(spec, self.s.evaluation.seed, self.s.evaluation.episodes)
        ]
        check_disjoint(uses)
