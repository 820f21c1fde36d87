"""What every stage of a run is given, and how a stage is run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from alltrades.data.decoded import Images
from alltrades.data.interface import Interface
from alltrades.data.opened import Stores
from alltrades.data.weights.estimators import ESTIMATORS
from alltrades.envs.instructions import phrased
from alltrades.envs.rollouts.crew import Crew
from alltrades.envs.spec import EnvSpec
from alltrades.envs.success import described
from alltrades.errors import UserError
from alltrades.pipeline.beside import Beside
from alltrades.pipeline.code import code_of
from alltrades.pipeline.executors import executor_of, trainers_of
from alltrades.pipeline.holdout import UNSIMULATED
from alltrades.pipeline.manifest import Manifest
from alltrades.pipeline.resolution import MOST, check_environments, resolve
from alltrades.policies.learning.batches import Augmentation
from alltrades.policies.learning.checkpoints import Place
from alltrades.policies.model.backbones import BACKBONES
from alltrades.policies.model.encoders import ENCODERS
from alltrades.policies.model.encoders.weights import initial_weights
from alltrades.settings.rollouts import RolloutSettings
from alltrades.settings.run import RunSettings
from alltrades.system import ranks
from alltrades.system.compute.executor import Executor, Local
from alltrades.system.progress import Progress
from alltrades.system.reading import write_sealed
from alltrades.system.reporting import Report
from alltrades.system.streams import stream_seed


def _unrecorded(name: str, step: int, values: Mapping[str, Any]) -> None:
    """Metrics that nobody keeps."""


@dataclass(frozen=True)
class Context:
    """What every stage is given besides its inputs and outputs.

    Attributes:
        specs: the environments.
        left_out: optional environments without their packages, and what is missing.
        manifest: which stages are done; None where every stage runs and its outputs, such as a
            store, are continued by themselves.
        crew: processes that step environments.
        beside: trainings at the same time.
        code: what results depend on, as `code_of` says.
        record: called with (name, step, values) of trainings.
        images: of stores, decoded once for all stages.
        stores: that are read, opened once for all stages.
        executor: where independent work is done.
        trainers: processes of this machine for trainings beside one another, where nothing else
            carries them out.
    """

    settings: RunSettings
    specs: tuple[EnvSpec, ...]
    left_out: Mapping[str, UserError]
    manifest: Manifest | None
    crew: Crew
    beside: Beside
    code: Mapping[str, str] = field(default_factory=dict)
    record: Callable[[str, int, Mapping[str, Any]], None] = field(default=_unrecorded)
    images: Images = field(default_factory=Images)
    stores: Stores = field(default_factory=Stores)
    executor: Executor = field(default_factory=Local)
    trainers: Executor | None = None

    @property
    def ids(self) -> list[str]:
        return [spec.id for spec in self.specs]

    @property
    def interfaces(self) -> list[Interface]:
        return [spec.interface for spec in self.specs]

    @property
    def simulated(self) -> tuple[EnvSpec, ...]:
        """The environments that can be stepped."""
        return tuple(spec for spec in self.specs if spec.simulated)

    @property
    def tested(self) -> tuple[EnvSpec, ...]:
        """Those that can be stepped, as evaluation episodes are told what to do."""
        phrasing = self.settings.evaluation.instructions
        return tuple(phrased(spec, phrasing) for spec in self.simulated)

    @property
    def blind(self) -> bool:
        """Whether nothing but the evaluation may see success."""
        return self.settings.simulator.blind

    @property
    def practised(self) -> tuple[EnvSpec, ...]:
        """Those that can be stepped, for episodes that something learns from: without their success
        where nothing may see it.
        """
        return tuple(spec for spec in self.recording if spec.simulated)

    @property
    def demonstrating(self) -> tuple[EnvSpec, ...]:
        """All environments, for demonstrations of experts."""
        return self.specs if self.settings.demos.ends == "success" else self.recording

    @property
    def recording(self) -> tuple[EnvSpec, ...]:
        """All environments, in the manner of those that are practised."""
        if not self.blind:
            return self.specs
        return tuple(replace(s, success=None, stop_at_success=False) for s in self.specs)

    @property
    def recorded(self) -> list[str]:
        """The environments that only recordings know."""
        return [spec.id for spec in self.specs if not spec.simulated]

    @property
    def holdout(self) -> dict[str, float]:
        """By environment, the share of its demonstrations that nothing learns from."""
        share = self.settings.demos.holdout
        default = {True: 0.0, False: UNSIMULATED}
        return {s.id: default[s.simulated] if share is None else share for s in self.specs}

    @property
    def observed(self) -> dict[str, set[str]]:
        """By environment, the fields that some network sees."""
        kinds = self.settings.observed()
        return {
            e.id: {name for observe in kinds for name in e.seeing(observe).observation}
            for e in self.interfaces
        }

    @property
    def augmentation(self) -> Augmentation:
        """What trainings make of recorded windows."""
        symmetries = {spec.id: spec.symmetries for spec in self.specs}
        return Augmentation(self.settings.demos.hold_end, symmetries)

    @property
    def store_code(self) -> Mapping[str, str] | None:
        """The code that must have begun a store which is continued by itself."""
        return self.code if self.manifest is None and self.settings.same_code else None

    def seed(self, name: str) -> int:
        """Seed of one piece of work: different names have independent streams."""
        return stream_seed(self.settings.seed, "stage", name)

    @property
    def base(self) -> dict[str, Any]:
        """What every stage depends on."""
        return {
            "seed": self.settings.seed,
            "environments": {
                s.id: {
                    "interface": s.interface.digest(),
                    "max_steps": s.max_steps,
                    "symmetries": repr(s.symmetries),
                }
                for s in self.specs
            },
            "success": {
                s.id: [described(s.success), s.stop_at_success, self.blind] for s in self.specs
            },
            **self._rendered,
            **self._told,
        }

    @property
    def _rendered(self) -> dict[str, Any]:
        """How pictures are drawn, where there are some."""
        made = {s.id: s.rendering.described() for s in self.specs if s.rendering is not None}
        return {"rendering": made} if made else {}

    @property
    def _told(self) -> dict[str, Any]:
        """What environments are told, where they are told something."""
        said = {s.id: repr(s.instructions) for s in self.specs if s.told is not None}
        return {"instructions": said} if said else {}

    def work(self, stage: str) -> Path:
        """Folder of a stage's checkpoints."""
        if self.manifest is None:
            raise RuntimeError(f"stage '{stage}' keeps checkpoints, which need a manifest")
        return self.manifest.work(stage)

    def place(self, stage: str) -> Place:
        """Where a stage's trainings are carried out and keep their checkpoints."""
        executor = self.trainers if self.beside.several else None
        return Place(self.work(stage), executor=executor or self.executor)

    def done(self, stage: str, key: Mapping[str, Any]) -> bool:
        """Whether a stage is done with these inputs."""
        return self.manifest is not None and self.manifest.done(stage, self.base | dict(key))

    def write(self, path: Path, value: Mapping[str, Any]) -> None:
        """Write JSON beside the stages; a manifest remembers its digest."""
        if self.manifest is None:
            write_sealed(path, value)
        else:
            self.manifest.write(path, value)

    def stage(
        self,
        name: str,
        key: Mapping[str, Any],
        outputs: Sequence[Path],
        body: Callable[[Report], None],
        total: int = 1,
        unit: str = "it",
    ) -> None:
        """Run `body` with a progress line unless the manifest shows it done with this key.

        Args:
            key: what the outputs depend on besides `base`.
            total: units of work that are expected.
        """

        def work() -> None:
            with Progress(name, total, unit, check=self.beside.check) as line:
                body(Report(line.update, self.record, name))

        if self.manifest is None:
            work()
        else:
            self.manifest.stage(name, self.base | dict(key), outputs, work, self.say)

    @staticmethod
    def say(line: str) -> None:
        """A line for the user, beside the progress of other stages."""
        print(line, file=sys.stderr)

    def unsimulated(self, stage: str, what: str) -> None:
        """Say what a stage does with the environments that only recordings know, if there are."""
        names = self.recorded
        if names:
            more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
            line = f"{stage}: no simulator of {', '.join(names[:MOST])}{more}: {what}"
            print(line, file=sys.stderr)

    def unrecorded(self) -> Context:
        """The same with metrics kept nowhere."""
        return replace(self, record=_unrecorded)


def crew_of(settings: RolloutSettings, executor: Executor | None = None) -> Crew:
    """Processes that step environments, as the settings want them, of this machine or of a remote
    executor; closed by whoever asks.
    """
    return Crew(settings.worker_count(), settings.timeout, settings.growth * 2**30, executor)


def _code(settings: RunSettings, specs: Sequence[EnvSpec]) -> dict[str, str]:
    """The code that a run's results depend on."""
    parts: list[Any] = [
        BACKBONES.get(settings.policy.backbone),
        ENCODERS.get(settings.policy.encoder.name),
    ]
    for row in (settings.distill, *settings.distillations().values()):
        parts += [ESTIMATORS.get(n) for n in row.weights.kind.split("*") if n in ESTIMATORS]
    return code_of(specs, settings.plugins, parts)


@contextmanager
def opened(
    settings: RunSettings,
    manifest: Manifest | None = None,
    record: Callable[[str, int, Mapping[str, Any]], None] = _unrecorded,
    stores: Stores | None = None,
) -> Iterator[Context]:
    """The context of a run or of a single stage; its processes end with it. `stores`: those that
    are open already.

    Raises UserError for environments, fields, estimators, backbones and encoders that are not
    there, and where packages of the engine are missing.
    """
    if settings.rollout.engine == "onnx":
        from alltrades.policies.onnx.export import require_packages

        require_packages()
    stores = Stores() if stores is None else stores
    specs, left_out = resolve(settings, stores)
    check_environments(settings, specs)
    for row in (settings.distill, *settings.distillations().values()):
        row.weights.check()
    BACKBONES.get(settings.policy.backbone)
    initial_weights(settings.policy.encoder)
    code = _code(settings, specs)
    if manifest is not None:
        manifest.code, manifest.same_code = code, settings.same_code
    together = ranks.count()
    if together > 1:
        Context.say(
            f"{together} processes: generalists and labeled-only policies learn in all of them, "
            "all else is done by the first"
        )
    with (
        executor_of(settings.compute, settings.device) as executor,
        crew_of(settings.rollout, executor) as crew,
        ExitStack() as opened_later,
    ):
        # processes that train together take one training at a time
        beside = Beside(1) if together > 1 else Beside(settings.training_count(), executor)
        trainers = trainers_of(beside.count, settings.device, executor)
        if trainers is not None:
            opened_later.enter_context(trainers)
            trainers.check = beside.check
        cache = settings.training.image_cache
        images = Images(
            None if manifest is None else manifest.folder, None if cache is None else cache * 2**30
        )
        yield Context(
            settings.seeing,
            specs,
            left_out,
            manifest,
            crew,
            beside,
            code,
            record,
            images,
            stores,
            executor,
            trainers,
        )
