"""Policies that learn from demonstrations: specialists of one environment, and the labeled-only multi-task policy."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from alltrades.data.errors import UserError
from alltrades.data.steps import Steps
from alltrades.policies.batches import Symmetries, TrainingData
from alltrades.policies.normalizer import Normalizer, fit_normalizer
from alltrades.policies.policy import DiffusionPolicy, EnvironmentInfo
from alltrades.policies.settings import PolicySettings, TrainSettings
from alltrades.policies.training import Log, Trainer, threads_for

FEWEST = 3  # episodes of an environment from which one may be held out
CHECKPOINTS = 10  # number of steps counts that held-out selection compares


def make_normalizer(demos: Steps, infos: Sequence[EnvironmentInfo], settings: PolicySettings) -> Normalizer:
    """Statistics of demonstrations, one block per environment (see `fit_normalizer`)."""
    observations, actions = [], []
    of_step = demos.environment[demos.episode_of_step]
    for info in infos:
        rows = (of_step == info.id) & demos.has_actions[demos.episode_of_step]
        if not rows.any():
            raise UserError(f"no demonstrations of '{info.id}' in the store; it has {', '.join(sorted(set(demos.environment)))}; "
                            "collect some, or leave the environment out")
        observations.append(demos.observation[rows, : info.obs_dim])
        actions.append(demos.action[rows, : info.action_dim])
    obs_dim, action_dim = max(i.obs_dim for i in infos), max(i.action_dim for i in infos)
    return fit_normalizer(observations, actions, settings.observation_normalizer, settings.action_normalizer,
                          obs_dim, action_dim)[0]


def build_policy(settings: PolicySettings, infos: Sequence[EnvironmentInfo], normalizer: Normalizer, seed: int,
                 device: str = "cpu") -> DiffusionPolicy:
    """A policy with freshly initialised weights, a function of `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return DiffusionPolicy(settings, infos, normalizer).to(device)


def demonstration_data(demos: Steps, policy: DiffusionPolicy, hold_end: bool,
                       symmetries: Symmetries | None = None) -> TrainingData:
    """Recorded actions of all demonstrations that have actions, uniform over steps."""
    return TrainingData(demos, [e.id for e in policy.environments], policy.history, policy.horizon, policy.obs_dim,
                        policy.action_dim, probability=demos.has_actions[demos.episode_of_step].astype(float),
                        hold_end=hold_end, symmetries=symmetries, device=next(policy.parameters()).device)


def held_out_loss(policy: DiffusionPolicy, data: TrainingData, seed: int, draws: int = 1024) -> float:
    """Mean denoising loss on fixed rows, noise and times: the same for every checkpoint of one selection."""
    batch = data.gather(data.rows(draws, np.random.default_rng(seed)))
    generator = torch.Generator(batch.action.device).manual_seed(seed)
    with torch.inference_mode():
        return float(policy.loss(batch, generator).mean())


@dataclass
class Fit:
    """A trained policy and what its selection saw."""

    policy: DiffusionPolicy
    steps: int
    held_out: float | None  # denoising loss on held-out episodes at the chosen step, None without selection


def fit_demonstrations(
    demos: Steps, infos: Sequence[EnvironmentInfo], normalizer: Normalizer, settings: PolicySettings, train: TrainSettings,
    seed: int, *, hold_end: bool = False, selection: str = "last", initial: DiffusionPolicy | None = None,
    symmetries: Symmetries | None = None, folder: Path | None = None, log: Log | None = None,
    each: Callable[[int], None] | None = None, device: str = "cpu",
) -> Fit:
    """Fit a policy to demonstrations.

    Args:
        demos: steps of the environments in `infos` (others are ignored).
        selection: "last" keeps the last averaged weights. "holdout" trains first with a fifth of each environment's
            episodes (at least one) held out, finds the number of steps with the lowest held-out loss, then trains on all
            episodes for that many; environments with fewer than 3 episodes hold none out.
        symmetries: of each environment; used where `train.symmetry` says so.
        initial: start from a copy of this policy (fine-tuning) instead of fresh weights.
        folder: where checkpoints are kept.
    """
    ids = [i.id for i in infos]
    episodes = np.flatnonzero(np.isin(demos.environment, ids))

    def fresh() -> DiffusionPolicy:
        if initial is not None:
            return copy.deepcopy(initial).train()
        return build_policy(settings, infos, copy.deepcopy(normalizer), seed, device)

    shown = symmetries if train.symmetry else None
    best, held_out = train.steps, None
    if selection == "holdout" and np.unique(demos.environment[episodes], return_counts=True)[1].max(initial=0) >= FEWEST:
        best, held_out = _select(demos, episodes, fresh(), train, seed, hold_end, shown, each)
    offset = train.steps if held_out is not None else 0
    policy = fresh()
    trainer = Trainer(policy, demonstration_data(demos, policy, hold_end, shown), train, seed, total=best)
    trainer.fit(folder, log, None if each is None else (lambda step: each(offset + step)))
    return Fit(policy, best, held_out)


def _select(demos: Steps, episodes: np.ndarray, policy: DiffusionPolicy, train: TrainSettings, seed: int, hold_end: bool,
            symmetries: Symmetries | None, each: Callable[[int], None] | None) -> tuple[int, float]:
    """Number of steps with the lowest loss on held-out episodes, and that loss."""
    rng = np.random.default_rng([seed, 77])
    held = np.zeros(len(demos.environment), bool)
    for name in np.unique(demos.environment[episodes]):
        shuffled = rng.permutation(episodes[demos.environment[episodes] == name])
        held[shuffled[: max(1, len(shuffled) // 5)]] = len(shuffled) >= FEWEST
    used = np.isin(np.arange(len(held)), episodes)
    trainer = Trainer(policy, demonstration_data(demos.select(used & ~held), policy, hold_end, symmetries), train, seed)
    probe = copy.deepcopy(policy).eval()
    check = demonstration_data(demos.select(used & held), probe, hold_end)
    results: list[tuple[float, int]] = []
    stops = [max(1, round(train.steps * (i + 1) / CHECKPOINTS)) for i in range(CHECKPOINTS)]
    with threads_for(policy):
        while trainer.step < train.steps:
            trainer.update()
            if each is not None:
                each(trainer.step)
            if trainer.step in stops:
                trainer.ema.copy_to(list(probe.parameters()))
                results.append((held_out_loss(probe, check, seed), trainer.step))
    loss, step = min(results)
    return step, loss
