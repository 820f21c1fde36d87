"""Stage 2: one generalist from the rollouts of many teachers.

Per environment the rows are demonstration states and rollout states, drawn with the probabilities
that the importance weights give them (data/weights.py). What the generalist regresses at a row
depends on how the row was kept:

- other rollout rows: a fresh full chunk drawn from the teacher at that state (`noise`), or the
  teacher's own prediction at
  the same noised chunk (`score`);
- rows whose weight speaks of the actions, such as success-filtered ones: the executed actions,
  tails masked;
- demonstration rows with `reuse_labels`: the recorded actions;
- rows of episodes without actions: always a chunk of the first teacher.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from alltrades.data.steps import Steps
from alltrades.data.weights.estimate import WeightResult, kept_episodes
from alltrades.errors import UserError
from alltrades.policies.learning.batches import (
    Labels,
    TrainingData,
    TrainingRows,
    windows_of,
)
from alltrades.policies.learning.excess import WHAT, ExcessLoss
from alltrades.policies.learning.teachers import (
    ScoreLoss,
    TeacherPredictions,
    Teachers,
    check_comparable,
)
from alltrades.policies.model.policy import DiffusionPolicy
from alltrades.policies.model.threads import threads
from alltrades.system.compute.executor import Executor, Here, Local
from alltrades.system.streams import stream

RECORDED = -1  # teacher of a row that keeps its recorded actions


@dataclass(frozen=True, kw_only=True)
class Stage2(TrainingRows):
    """Rows of stage 2: steps of demonstrations followed by steps of rollouts.

    Attributes:
        loss_weight: (S,) never None.
        teacher: (S,) position of the teacher that labels the row, or RECORDED for rows that keep
            their recorded actions.
        demonstration: (S,) true for steps of demonstrations.
    """

    loss_weight: np.ndarray
    teacher: np.ndarray
    demonstration: np.ndarray


@dataclass(frozen=True)
class Targets:
    """What the rows of stage 2 are to learn, and how weights enter.

    Attributes:
        executed: rollout rows keep the actions that were executed.
        told: rows say whether their episode went well: what `kept_episodes` with this share keeps,
            and recorded demonstrations; None: they do not.
        reuse_labels: demonstration rows keep their recorded actions.
        demo_share: with `reuse_labels`, the share of demonstration rows, spread equally over their
            episodes and steps; also that of episodes without actions, where the weights would leave
            all demonstrations out.
        apply: "sample" puts the weights into the probabilities, "loss" into the factors of the
            loss: never both. The expected gradient is the same.
    """

    executed: bool
    reuse_labels: bool
    demo_share: float
    apply: Literal["sample", "loss"] = "sample"
    told: float | None = None


def stage2_rows(
    demos: Steps,
    rollouts: Steps,
    weights: Mapping[str, WeightResult],
    teachers: Sequence[str],
    targets: Targets,
) -> Stage2:
    """Choose probability, weight and label source of every row.

    Args:
        demos, rollouts: steps of all environments.
        weights: one result per environment, estimated on exactly these rows in their order.
        teachers: their names, which are the values of the rollouts' source column; episodes
            without actions may be of anyone, and are the first teacher's to label.

    Raises UserError for rollouts of a source that is no teacher.
    """
    unknown = sorted({str(s) for s in rollouts.source[rollouts.has_actions]} - set(teachers))
    if unknown:
        raise UserError(
            f"rollouts come from '{unknown[0]}'; expected teachers of the names that they were "
            f"recorded under, here {', '.join(teachers)}; name the teacher '{unknown[0]}'"
        )
    steps = Steps.concatenate([demos, rollouts])
    n_demo = len(demos)
    of_step = steps.environment[steps.episode_of_step]
    probability, loss_weight = np.zeros(len(of_step)), np.ones(len(of_step))
    for name, result in weights.items():
        demo_rows = np.flatnonzero(of_step[:n_demo] == name)
        roll_rows = n_demo + np.flatnonzero(of_step[n_demo:] == name)
        rows = np.concatenate([demo_rows, roll_rows])
        weighted = result.row_probability()
        plain = weighted if targets.apply == "sample" else result.base_probability()
        added = np.full(len(demo_rows), targets.reuse_labels or not weighted[1].any())
        if (
            not weighted[0].any()
        ):  # kinds that estimate no ratio leave demonstrations out, but not observations alone
            added |= ~demos.has_actions[demos.episode_of_step[demo_rows]]
        if added.any():
            recorded = np.zeros(len(demo_rows))
            recorded[added] = equal_episodes(demos, demo_rows[added])
            if targets.reuse_labels and demos.begins is not None:
                labelled = demos.has_actions[demos.episode_of_step[demo_rows]]
                recorded *= np.where(labelled, demos.begins[demo_rows], 1)
                recorded /= max(recorded.sum(), 1e-300)
            weighted, plain = (
                _with_recorded(recorded, p[1], targets.demo_share) for p in (weighted, plain)
            )
        full, p = np.concatenate(weighted), np.concatenate(plain)
        probability[rows] = p
        if targets.apply == "loss":
            loss_weight[rows] = np.divide(full, p, out=np.zeros_like(full), where=p > 0)
    source = rollouts.source[rollouts.episode_of_step]
    teacher = np.full(len(of_step), RECORDED)
    if not targets.executed:
        number = {name: i for i, name in enumerate(teachers)}
        teacher[n_demo:] = [number.get(str(s), 0) for s in source]
    if not targets.reuse_labels:
        teacher[:n_demo] = 0
    teacher[~steps.has_actions[steps.episode_of_step]] = 0  # observations alone are conditions
    teacher[probability == 0] = RECORDED
    outcome = None
    if targets.told is not None:
        outcome = np.concatenate([np.ones(n_demo), _outcomes(rollouts, targets.told)])
        outcome[teacher != RECORDED] = 0
    return Stage2(
        steps=steps,
        probability=probability,
        loss_weight=loss_weight,
        outcome=outcome,
        teacher=teacher,
        demonstration=np.arange(len(of_step)) < n_demo,
    )


def _outcomes(rollouts: Steps, top: float) -> np.ndarray:
    """(S,) 1 for steps of episodes that a filter would keep in their environment, else -1."""
    good = np.zeros(len(rollouts.ends), bool)
    for name in np.unique(rollouts.environment):
        mine = rollouts.environment == name
        good[mine] = kept_episodes(rollouts.select(mine), top)
    return np.where(good, 1.0, -1.0)[rollouts.episode_of_step]


def _with_recorded(
    recorded: np.ndarray, rollouts: np.ndarray, share: float
) -> tuple[np.ndarray, np.ndarray]:
    """Probability of demonstration and rollout rows where `share` is left to demonstrations, all of
    it without rollouts.
    """
    total = rollouts.sum()
    share = share if total > 0 else 1.0
    return share * recorded, rollouts * ((1 - share) / max(total, 1e-300))


def add_visits(
    rows: Stage2, visits: Sequence[tuple[Steps, Mapping[str, int]]], share: float
) -> Stage2:
    """Rows with what a policy visited since stage 2, before teachers label them: `share` of their
    environment's probability, loss weight 1. Rows that tell outcomes keep failures, too.

    Args:
        visits: of each round, whole episodes and, by environment, the index of the teacher that
            labels them, or RECORDED for their executed actions, which leaves out episodes without
            success, unless rows tell it. Environments not named are left out.
        share: of the visits of all rounds together, in (0, 1); an environment without visits keeps
            its rows as they are.
    """
    kept, teacher, good, tells = [], [], [], rows.outcome is not None
    for steps, of_environment in visits:
        target = np.array([of_environment.get(str(e), RECORDED) for e in steps.environment], int)
        named = np.isin(steps.environment, list(of_environment))
        chosen = named & (tells | (target != RECORDED) | steps.episode_success)
        kept.append(steps.select(chosen))
        teacher.append(target[chosen])
        good.append(np.where(steps.episode_success, 1.0, -1.0)[chosen])
    new = Steps.concatenate(kept)
    steps = Steps.concatenate([rows.steps, new])
    of_old, of_new = (s.environment[s.episode_of_step] for s in (rows.steps, new))
    old, added = rows.probability.copy(), np.zeros(len(of_new))
    for name in np.unique(of_new):
        mine = np.flatnonzero(of_new == name)
        total = old[of_old == name].sum()
        old[of_old == name] *= 1 - share
        added[mine] = (share * total if total > 0 else 1.0) * equal_episodes(new, mine)
    labelled = np.concatenate(teacher)[new.episode_of_step]
    outcome = None
    if rows.outcome is not None:
        went = np.where(labelled == RECORDED, np.concatenate(good)[new.episode_of_step], 0.0)
        outcome = np.concatenate([rows.outcome, went])
    return Stage2(
        steps=steps,
        probability=np.concatenate([old, added]),
        outcome=outcome,
        loss_weight=np.concatenate([rows.loss_weight, np.ones(len(added))]),
        teacher=np.concatenate([rows.teacher, labelled]),
        demonstration=np.concatenate([rows.demonstration, np.zeros(len(added), bool)]),
    )


def equal_episodes(steps: Steps, rows: np.ndarray) -> np.ndarray:
    """Every episode the same mass, shared equally by its steps; sums to 1 over `rows`."""
    episode = steps.episode_of_step[rows]
    _, inverse, counts = np.unique(episode, return_inverse=True, return_counts=True)
    return 1.0 / (counts[inverse] * len(counts))


def label_rows(
    rows: Stage2,
    teachers: Teachers,
    *,
    steps: int,
    seed: int,
    batch: int = 1024,
    executor: Executor | None = None,
) -> Stage2:
    """Draw one fresh chunk from its teacher for every row that a teacher labels.

    Args:
        steps: sampling steps while labelling (>= 20 makes the chunk's law that of the teacher, not
            of its shortcut); never fewer than the teacher's own, nor more than a discrete process
            was trained with.
        seed: of all noise that teachers' samplers draw.
        executor: draws the chunks of `batch` rows each; default here.

    Cost: one network call per `batch` rows and sampling step.
    """
    wanted = np.flatnonzero(rows.teacher >= 0)
    every = [p for of_environment in teachers.values() for p in of_environment.values()]
    largest = max((p.layout for p in every), key=lambda layout: layout.action_dim)
    chunks = np.zeros((len(wanted), every[0].horizon, largest.action_dim), np.float32)
    of_row = np.full(len(rows.teacher), -1)
    of_row[wanted] = np.arange(len(wanted))
    of_step = rows.steps.environment[rows.steps.episode_of_step]
    parts: list[tuple[str, str, int, np.ndarray]] = []  # teacher, environment, its number, rows
    for kind, (teacher, policies) in enumerate(teachers.items()):
        for name in policies:
            mine = wanted[(rows.teacher[wanted] == kind) & (of_step[wanted] == name)]
            parts += [
                (teacher, name, kind, mine[start : start + batch])
                for start in range(0, len(mine), batch)
            ]
    items = (
        (teacher, name, windows_of(teachers[teacher][name], rows.steps, part), (kind, int(part[0])))
        for teacher, name, kind, part in parts
    )
    shared = Drawing(teachers, steps, seed, torch.get_num_threads())
    for (*_, part), chunk in zip(parts, (executor or Local()).map(_draw, items, shared)):
        chunks[of_row[part]] = largest.pack_action(chunk)
    return replace(rows, labels=Labels(chunks, of_row))


@dataclass(frozen=True)
class Drawing:
    """How chunks are drawn (see `label_rows`), with so many threads of PyTorch."""

    teachers: Teachers
    steps: int
    seed: int
    threads: int


def _draw(
    here: Here, how: Drawing, item: tuple[str, str, Mapping[str, Tensor], tuple[int, int]]
) -> np.ndarray:
    """One chunk (B, H, A) for every window of a teacher in an environment."""
    teacher, name, window, numbers = item
    policy, count = how.teachers[teacher][name], len(next(iter(window.values())))
    rng = stream(how.seed, "label", *numbers)
    shape = (count, policy.horizon, policy.layout.action_dim)
    draw = partial(_normal, rng, shape, policy.device)
    environment = torch.full((count,), policy.layout.index(name), device=policy.device)
    with torch.inference_mode(), threads(how.threads):
        chunk = policy.sample(
            dict(window), environment, draw(), draw, _label_steps(policy, how.steps)
        )
    return chunk.cpu().numpy()


def _normal(rng: np.random.Generator, shape: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)).to(device)


def _label_steps(policy: DiffusionPolicy, steps: int) -> int:
    wanted = max(steps, policy.settings.sampling_steps)
    return (
        wanted
        if policy.settings.process == "flow"
        else min(wanted, policy.settings.diffusion_steps)
    )


def score_loss(rows: Stage2, teachers: Teachers, policy: DiffusionPolicy) -> ScoreLoss:
    """Loss of a generalist that follows the predictions of the teachers who label its rows.

    Raises UserError where the two cannot be compared.
    """
    check_comparable(policy, teachers, "score targets", "targets: noise")
    labelled = rows.teacher >= 0
    return ScoreLoss(TeacherPredictions(teachers, policy, rows.teacher, labelled))


def excess_loss(
    rows: Stage2,
    teachers: Teachers,
    data: TrainingData,
    policy: DiffusionPolicy,
    seed: int,
    *,
    score: bool,
) -> ExcessLoss:
    """Excess over the teacher that labels the row; for rows with recorded actions over the one that
    acted, else the first.

    Args:
        score: labelled rows follow their teacher's prediction rather than its chunk.
    """
    check_comparable(policy, teachers, *WHAT)
    names = list(teachers)
    source = rows.steps.source[rows.steps.episode_of_step]
    acted = np.array([names.index(s) if s in teachers else 0 for s in source])
    teacher_of_row = np.where(rows.teacher >= 0, rows.teacher, acted)
    followed = rows.teacher >= 0 if score else None
    predictions = TeacherPredictions(teachers, policy, teacher_of_row, followed)
    return ExcessLoss(predictions, data, policy, seed)
