"""The stage of the eyes: encoders of cameras that learn to tell the state, from pictures of
demonstrations, rollouts and random starts.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from alltrades.data.fields import Observation
from alltrades.data.steps import Steps
from alltrades.envs.rollouts.faults import Faults
from alltrades.envs.rollouts.rollout import Job, rollout
from alltrades.envs.rollouts.seeding import episode_seed
from alltrades.envs.spec import EnvSpec
from alltrades.errors import UserError
from alltrades.pipeline.collection import open_or_create
from alltrades.pipeline.context import Context
from alltrades.pipeline.demonstrations import Demonstrations
from alltrades.pipeline.drawing import draw, drawn_of, lacking, pictured
from alltrades.pipeline.eye_errors import START, eye_lines, judged
from alltrades.pipeline.folder import RunFolder
from alltrades.pipeline.kept import expected
from alltrades.pipeline.rollouts import Teacher, digest_of_first, first_numbers
from alltrades.policies.learning.batches import TrainingData, TrainingRows
from alltrades.policies.learning.eyes import (
    READER,
    READER_TENSORS,
    Sight,
    frames_of,
    make_reader,
)
from alltrades.policies.learning.health import settings_called
from alltrades.policies.learning.training import Goal, Trainer
from alltrades.policies.model.encoders.weights import INDEX, TENSORS
from alltrades.settings.run import RunSettings
from alltrades.system.files import write_json
from alltrades.system.reporting import Report

START_STEPS = 2  # of the episode that shows a random start


def opens_eyes(settings: RunSettings) -> bool:
    """Whether encoders learn to tell the state before any policy that looks."""
    return settings.policy.encoder.pretrain is not None


def with_eyes(context: Context, folder: Path) -> Context:
    """The same with policies whose encoders begin with what the stage wrote."""
    policy = context.settings.policy
    encoder = policy.encoder.model_copy(update={"weights": str(folder), "pretrain": None})
    seeing = policy.model_copy(update={"encoder": encoder})
    return replace(context, settings=context.settings.model_copy(update={"policy": seeing}))


def sight_of(context: Context) -> tuple[Sight, tuple[EnvSpec, ...]]:
    """What the eyes see and are to tell, and the environments in which they can learn it.

    Raises UserError where no network looks, and where nothing is left to be told.
    """
    settings = context.settings
    looking = [settings.policy_of(n).observe for n in (settings.labeled_only, settings.distill)]
    looking += [settings.policy_of(d).observe for d in settings.all_generalists().values()]
    cameras, known = dict[str, None](), dict[str, None]()
    told: dict[tuple[str, str], tuple[int, ...]] = {}
    taught: list[EnvSpec] = []
    for spec in context.specs:
        fields = spec.interface.observation
        seen = [spec.interface.seeing(observe).observation for observe in looking]
        own = [n for n, f in fields.items() if f.kind == "image" and any(n in s for s in seen)]
        beside = [s for s in seen if any(n in s for n in own)]  # what those see that look
        knows = [n for n, f in fields.items() if f.kind == "state" and all(n in s for s in beside)]
        parts = spec.rendering.parts if spec.rendering is not None else {}
        left = {}
        for name, f in fields.items():
            if f.kind != "state" or name in knows or name in parts:
                continue
            shown = [parts[n].columns for n in knows if n in parts and parts[n].of == name]
            taken = {column for columns in shown for column in columns}
            left[spec.id, name] = tuple(i for i in range(f.shape[0]) if i not in taken)
        if own and any(left.values()):
            cameras |= dict.fromkeys(own)
            known |= dict.fromkeys(knows)
            told |= left
            taught.append(spec)
    if not taught:
        raise UserError(
            "policy.encoder.pretrain = state: no environment has both a camera that a network sees "
            "and a state that it does not; expected such; name cameras with policy.observe, such "
            "as [images.top, proprioception], and specialists' states with specialist.observe"
        )
    return Sight(tuple(cameras), tuple(known), told), tuple(taught)


# ---- random starts -------------------------------------------------------------------------------
@dataclass
class _Still:
    """Stays in the middle of the action box: an episode of two steps shows a start."""

    specs: Mapping[str, EnvSpec]
    lanes: int

    def __post_init__(self) -> None:
        self._of_lane: dict[int, np.ndarray] = {}

    def begin(self, lane: int, environment: str, seed: int) -> None:
        action = self.specs[environment].action
        low, high = (np.asarray(b, np.float32) for b in (action.low, action.high))
        with np.errstate(invalid="ignore", over="ignore"):
            middle = np.where(np.isfinite(low) & np.isfinite(high), (low + high) / 2, 0.0)
        self._of_lane[lane] = middle.astype(np.float32)[None]

    def plan(self, frames: Mapping[int, Observation]) -> dict[int, np.ndarray]:
        return {lane: self._of_lane[lane] for lane in frames}


def look_around(context: Context, specs: Sequence[EnvSpec], count: int, out: Path) -> None:
    """So many random starts of every environment into a store; one that is there is continued.

    Each is an episode of two steps, whose last frame is learned from: the first observation of some
    simulators, such as drawers and windows of Meta-World, does not yet show what the reset placed.
    """
    settings = context.settings.rollout
    seed = context.seed("eyes/starts")
    wanted = {s.id for s in specs}
    brief = {s.id: replace(s, max_steps=START_STEPS) for s in context.practised if s.id in wanted}

    def body(report: Report) -> None:
        faults, total = Faults(settings.errors), count * len(brief)
        facts = {"kind": "starts", "seed": seed}
        with open_or_create(out, list(specs), facts, code=context.store_code) as store:
            there = len(store)
            every = [(i, name) for i in range(count) for name in brief]
            jobs = [Job(n, episode_seed(seed, "eyes", n, i), "still") for i, n in every][there:]
            waiting = []
            for done, episode in enumerate(
                rollout(
                    jobs,
                    brief,
                    {"still": _Still(brief, settings.lanes)},
                    lanes=settings.lanes,
                    source=START,
                    crew=context.crew,
                    faults=faults,
                ),
                there + 1,
            ):
                waiting.append(episode)
                if len(waiting) >= 64:
                    store.append(waiting)
                    waiting = []
                report.progress(done, total)
            store.append(waiting)

    key = {
        "starts": count,
        "steps": START_STEPS,
        "environments": sorted(brief),
        **settings.acting(),
    }
    context.stage("eyes/starts", key, [out], body, count * len(brief), "start")


# ---- training ------------------------------------------------------------------------------------
def open_eyes(demos: Demonstrations, folder: RunFolder, teachers: Mapping[Teacher, int]) -> Context:
    """Train the eyes on demonstrations, the first so many rollouts of teachers in each environment,
    and random starts; what policies that look are trained in afterwards.
    """
    context, own = demos.context, demos.context.settings.eyes
    sight, specs = sight_of(context)
    if own.starts:
        look_around(context, [s for s in specs if s.simulated], own.starts, folder.starts)
    ids = [s.id for s in specs]
    for teacher, count in teachers.items():
        _glimpse(context, teacher, ids, own.every, count)
    rollouts = {t.rollouts: count for t, count in teachers.items()}
    starts = {folder.starts: own.starts} if own.starts else {}
    training = context.settings.training.of(own.train)
    key = demos.key() | {
        "rollouts": [digest_of_first(context, path, n) for path, n in rollouts.items()],
        "starts": [context.stores.open(path).digest() for path in starts],
        "eyes": own.model_dump(mode="json", exclude={"train", "starts", "rollouts"}),
        "told": sorted([*k, list(v)] for k, v in sight.told.items()),
        "cameras": sight.cameras,
        "train": training.determining(),
    }
    written = (TENSORS, INDEX, READER_TENSORS, READER)
    outputs = [folder.eyes / name for name in written] + [folder.eye_errors]

    def body(report: Report) -> None:
        learned = demos.steps()
        mine = learned.select(np.isin(learned.environment, ids))
        pictures = {t.rollouts: t.pictures for t in teachers}
        others = [
            _steps(context, path, ids, count, pictures.get(path, ()))
            for path, count in (rollouts | starts).items()
        ]
        steps = context.images.of(Steps.concatenate([mine, *others]))
        seed = context.seed("eyes")
        reader = make_reader(
            steps,
            [s.interface for s in specs],
            context.settings.policy,
            sight,
            own.width,
            seed,
            context.settings.device,
        )
        still = steps.source == START
        taught, unseen = frames_of(steps, own.every, own.holdout, seed, still)
        place = context.place("eyes")
        data = TrainingData(
            TrainingRows(steps=steps, probability=taught), reader, folder=place.work
        )
        trainer = Trainer(reader, data, training, seed, Goal(loss=reader.misses))
        with settings_called("eyes.train"):
            trainer.fit(place, report)
        most = max(teachers.values(), default=0)
        counts = {s.id: most for s in context.simulated}
        found = judged(reader, data, steps, taught, unseen, counts)
        reader.save(folder.eyes, {"steps": training.steps, "seed": seed, "errors": found})
        write_json(folder.eye_errors, found)

    context.stage("eyes", key, outputs, body, training.steps, "step")
    for line in eye_lines(json.loads(folder.eye_errors.read_text(encoding="utf-8"))):
        print(f"eyes: {line}", file=sys.stderr)
    return with_eyes(context, folder.eyes)


def _glimpse(
    context: Context, teacher: Teacher, ids: Sequence[str], every: int, count: int
) -> None:
    """Draw what the eyes learn from of rollouts that were recorded without pictures: every so many
    steps of the first `count` of each environment, since failures come where no success does; and
    by the way the other steps of those that generalists need whole.
    """
    store = context.stores.open(teacher.rollouts)
    blank = [name for name in lacking(context, store) if name in ids]
    wanted = dict.fromkeys(first_numbers(store, blank, count).tolist(), every)
    wanted |= dict.fromkeys(expected(context, teacher), 1)
    draw(context, f"draw/{teacher.name}/eyes", store, wanted, teacher.pictures[0])


def _steps(
    context: Context, path: Path, ids: Sequence[str], count: int, pictures: Sequence[Path]
) -> Steps:
    """The first `count` episodes of some environments in a store, with their pictures."""
    store = context.stores.open(path)
    numbers = np.flatnonzero(np.isin(store.columns()["environment"], ids))
    steps = pictured(store.steps(ids), numbers, drawn_of(context, store, pictures))
    return steps.select(np.isin(numbers, first_numbers(store, ids, count)))
