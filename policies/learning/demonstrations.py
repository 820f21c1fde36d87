"""Policies that learn from demonstrations: specialists of one environment, and the labeled-only
multi-task policy.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from alltrades.data.interface import Interface, common_image_shape
from alltrades.data.steps import Steps
from alltrades.errors import UserError
from alltrades.policies.learning.batches import Symmetries, TrainingData
from alltrades.policies.learning.objectives import Linear
from alltrades.policies.learning.training import HeldOut, Loss, Trainer, read_average
from alltrades.policies.model.normalizer import Normalizer, fit_normalizer
from alltrades.policies.model.policy import Batch, DiffusionPolicy, initialising
from alltrades.policies.settings import PolicySettings, TrainSettings
from alltrades.system.reporting import Report
from alltrades.system.streams import stream

FEWEST = 3  # episodes of an environment from which one may be held out
LossOf = Callable[[TrainingData, DiffusionPolicy], Loss]


def make_normalizer(
    demos: Steps, infos: Sequence[Interface], settings: PolicySettings
) -> Normalizer:
    """Statistics of demonstrations, one block per environment (see `fit_normalizer`).

    The pixels of an image share theirs: they are one quantity, and a network of convolutions treats
    them alike.
    """
    shape = common_image_shape(infos)
    return _fitted(demos, infos, settings)[0].repeated(1 if shape is None else shape[0] * shape[1])


def constant_dimensions(
    demos: Steps, infos: Sequence[Interface], settings: PolicySettings
) -> list[str]:
    """One line for every observation and action dimension that hardly moves in the
    demonstrations.
    """
    return _fitted(demos, infos, settings)[1]


def _fitted(
    demos: Steps, infos: Sequence[Interface], settings: PolicySettings
) -> tuple[Normalizer, list[str]]:
    """`fit_normalizer` on demonstrations, the pixels of an image as rows."""
    observations: list[np.ndarray] = []
    actions: list[np.ndarray] = []
    shape = common_image_shape(infos)
    pixels = 1 if shape is None else shape[0] * shape[1]
    of_step = demos.environment[demos.episode_of_step]
    for info in infos:
        rows = (of_step == info.id) & demos.has_actions[demos.episode_of_step]
        if not rows.any():
            if info.id in demos.environment:
                raise UserError(
                    f"the episodes of '{info.id}' have no actions, and some of them must; give "
                    "others with "
                    "--demos, and these with --demos.observations"
                )
            raise UserError(
                f"no demonstrations of '{info.id}' in the store; it has "
                f"{', '.join(sorted(set(demos.environment)))}; "
                "collect some, or leave the environment out"
            )
        found = demos.observation[rows, : info.obs_dim], demos.action[rows, : info.action_dim]
        for arrays, x in zip(
            (observations, actions), found
        ):  # one row per pixel, one column per image
            arrays.append(x.reshape(len(x), -1, pixels).swapaxes(1, 2).reshape(len(x) * pixels, -1))
    obs_dim, action_dim = max(x.shape[1] for x in observations), max(x.shape[1] for x in actions)
    return fit_normalizer(
        observations,
        actions,
        settings.observation_normalizer,
        settings.action_normalizer,
        obs_dim,
        action_dim,
    )


def build_policy(
    settings: PolicySettings,
    infos: Sequence[Interface],
    normalizer: Normalizer,
    seed: int,
    device: str = "cpu",
) -> DiffusionPolicy:
    """A policy with freshly initialised weights, a function of `seed`."""
    with initialising, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return DiffusionPolicy(settings, infos, normalizer).to(device)


def demonstration_data(
    demos: Steps, policy: DiffusionPolicy, hold_end: bool, symmetries: Symmetries | None = None
) -> TrainingData:
    """Recorded actions of all demonstrations that have actions, uniform over steps."""
    return TrainingData(
        demos,
        [e.id for e in policy.environments],
        policy.n_obs_steps,
        policy.horizon,
        policy.obs_dim,
        policy.action_dim,
        probability=demos.has_actions[demos.episode_of_step].astype(float),
        hold_end=hold_end,
        symmetries=symmetries,
        concentration=policy.concentration,
        device=next(policy.parameters()).device,
    )


def held_out(data: TrainingData, seed: int, draws: int = 1024) -> Batch:
    """Fixed rows of held-out episodes: the same for every checkpoint and every candidate of one
    selection.
    """
    return data.gather(data.rows(draws, stream(seed, "held out", "rows")))


@dataclass
class Fit:
    """A trained policy and what its selection saw."""

    policy: DiffusionPolicy
    steps: int
    held_out: (
        float | None
    )  # denoising loss on held-out episodes at the chosen step, None without selection


def fit_demonstrations(
    demos: Steps,
    infos: Sequence[Interface],
    normalizer: Normalizer,
    settings: PolicySettings,
    train: TrainSettings,
    seed: int,
    *,
    hold_end: bool = False,
    selection: str = "last",
    initial: DiffusionPolicy | None = None,
    symmetries: Symmetries | None = None,
    objective: Linear | None = None,
    loss: LossOf | None = None,
    folder: Path | None = None,
    averages: Path | None = None,
    selected: Callable[[], object] | None = None,
    report: Report | None = None,
    device: str = "cpu",
) -> Fit:
    """Fit one policy to demonstrations.

    Args:
        demos: steps of the environments in `infos` (others are ignored).
        selection: "last" keeps the last averaged weights. "holdout" trains first with a fifth of
            each environment's episodes (at least one) held out, finds the number of steps with the
            lowest held-out loss, then trains on all episodes for that many; environments with fewer
            than 3 episodes hold none out.
        symmetries: of each environment; used where `train.symmetry` says so.
        initial: start from a copy of this policy (fine-tuning) instead of fresh weights.
        objective: default uniform over environments; held-out losses are weighed by its preference.
        loss: makes the loss from training data and policy; default the denoising loss.
        folder: where checkpoints are kept.
        averages: where a "last" fit keeps its averaged weights at the steps that a "holdout" fit
            chooses among, and where that one looks for them before it trains on all episodes.
        selected: called by a "holdout" fit before it looks there.
    """
    demos = demos.select(np.isin(demos.environment, [i.id for i in infos]))

    def fresh() -> DiffusionPolicy:
        if initial is not None:
            return copy.deepcopy(initial).train()
        return build_policy(settings, infos, copy.deepcopy(normalizer), seed, device)

    def run(trainer: Trainer, at: Path | None, report: Report) -> None:
        trainer.fit(at, report)
        if at is not None:
            trainer.save(at)  # an interrupted fit does not repeat its finished part

    shown = symmetries if train.symmetry else None
    best, lowest = train.steps, None
    held = hold_out(demos, seed)
    first = selection == "holdout" and held.any()
    report = report or Report()
    choosing, training = report.parts([train.steps if first else 0, train.steps])
    if first:
        policy = fresh()
        check = held_out(demonstration_data(demos.select(held), policy, hold_end), seed)
        judge = None if objective is None else Linear(objective.environments, objective.weights())
        data = demonstration_data(demos.select(~held), policy, hold_end, shown)
        trainer = Trainer(
            policy,
            data,
            train,
            seed,
            copy.deepcopy(objective),
            None if loss is None else loss(data, policy),
            held_out=HeldOut([check], [seed], train.steps, judge),
        )
        run(trainer, None if folder is None else folder / "selection", choosing.unrecorded())
        lowest, best = min((losses[0], step) for step, losses in trainer.curve.items())
        if selected is not None:
            selected()
        policy = fresh()
        if averages is not None and read_average(averages, best, policy):
            return Fit(policy, best, lowest)
    policy = fresh()
    data = demonstration_data(demos, policy, hold_end, shown)
    trainer = Trainer(
        policy,
        data,
        train,
        seed,
        objective,
        None if loss is None else loss(data, policy),
        total=best,
        averages=averages if selection == "last" else None,
    )
    run(trainer, None if folder is None else folder / "training", training)
    return Fit(policy, best, lowest)


def hold_out(demos: Steps, seed: int) -> np.ndarray:
    """(E,) bool: a fifth of each environment's episodes, at least one of 3 and more, none
    of fewer.
    """
    rng = stream(seed, "held out")
    held = np.zeros(len(demos.environment), bool)
    for name in np.unique(demos.environment):
        shuffled = rng.permutation(np.flatnonzero((demos.environment == name) & demos.has_actions))
        held[shuffled[: max(1, len(shuffled) // 5)]] = len(shuffled) >= FEWEST
    return held
