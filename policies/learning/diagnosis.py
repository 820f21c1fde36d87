"""How far policies are from what they were to learn: a generalist from its teachers, a policy from
its demonstrations.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from alltrades.data.layout import pad
from alltrades.data.steps import Steps
from alltrades.policies.learning.batches import TrainingData, TrainingRows, windows_of
from alltrades.policies.learning.distillation import Stage2
from alltrades.policies.learning.teachers import Teachers
from alltrades.policies.model.policy import DiffusionPolicy


def distillation_gap(
    policy: DiffusionPolicy,
    teachers: Teachers,
    rows: Stage2,
    name: str,
    rng: np.random.Generator,
    draws: int = 512,
) -> float | None:
    """E |g - h|^2 over the variance of the teachers' chunks in one environment, on rollout states
    of stage 2.

    h is the teacher that labels the row, or, for rows with executed actions, the one that acted.
    Both act from the same noise at the same states; 0 means that the generalist copies its
    teachers. None when no row of that environment was labelled by a teacher or kept from a rollout.
    """
    source = rows.steps.source[rows.steps.episode_of_step]
    mine = (rows.steps.environment[rows.steps.episode_of_step] == name) & ~rows.demonstration
    p = np.where(mine, rows.probability, 0.0)
    if p.sum() <= 0:
        return None
    chosen = rng.choice(len(p), size=draws, p=p / p.sum())
    kinds = [kind for kind in teachers if name in teachers[kind]]
    noise = _noise(rng, draws, policy, *(teachers[kind][name] for kind in kinds))
    acted = [str(s) if s in kinds else kinds[0] for s in source[chosen]]
    names = list(teachers)
    kind_of_draw = np.array(
        [names[k] if k >= 0 else a for k, a in zip(rows.teacher[chosen], acted)]
    )
    own = _chunks(policy, rows.steps, chosen, name, noise, policy)
    taught = torch.zeros_like(own)
    for kind in np.unique(kind_of_draw):
        at = np.flatnonzero(kind_of_draw == kind)
        taught[at] = _chunks(teachers[kind][name], rows.steps, chosen[at], name, noise[at], policy)
    own, taught = (policy.layout.action(policy.layout.index(name), x) for x in (own, taught))
    gap = (own - taught).square().mean()
    return float(gap / taught.var(0, correction=0).mean().clamp(min=1e-6))


def demonstration_error(
    policy: DiffusionPolicy,
    demos: Steps,
    name: str,
    rng: np.random.Generator,
    draws: int = 256,
    tries: int = 8,
) -> float | None:
    """E min |h - a|^2 over the variance of recorded chunks a in one environment, in units of its
    own action scale, at demonstration states.

    The minimum is over `tries` chunks drawn from the policy, since experts may act in several ways.
    None without recorded actions.
    """
    recorded = (demos.environment == name)[demos.episode_of_step] & demos.demonstrated
    if not recorded.any():
        return None
    chosen = rng.choice(np.flatnonzero(recorded), size=draws)
    action, mask = _targets(policy, demos, recorded, chosen, name)
    own = partial(policy.layout.action, policy.layout.index(name))
    drawn = (
        own(_chunks(policy, demos, chosen, name, _noise(rng, draws, policy), policy))
        for _ in range(tries)
    )
    return _closest(drawn, action, mask)


def blind_error(
    policy: DiffusionPolicy,
    demos: Steps,
    name: str,
    rng: np.random.Generator,
    draws: int = 256,
    tries: int = 8,
) -> float | None:
    """The same as `demonstration_error` of whoever knows nothing of the state, and draws recorded
    chunks of the environment at random: from this a policy has to come down.
    """
    recorded = (demos.environment == name)[demos.episode_of_step] & demos.demonstrated
    if not recorded.any():
        return None
    chosen = rng.choice(np.flatnonzero(recorded), size=draws)
    action, mask = _targets(policy, demos, recorded, chosen, name)
    return _closest((action[rng.permutation(draws)] for _ in range(tries)), action, mask)


def _targets(
    policy: DiffusionPolicy, demos: Steps, recorded: np.ndarray, rows: np.ndarray, name: str
) -> tuple[Tensor, Tensor]:
    """Recorded chunks (B, H, A), normalised, in the environment's own dimensions, and (B, H, 1)
    whether each step of them was recorded.
    """
    batch = _recorded(policy, demos, recorded).gather(rows)
    action = policy.normalizer.action(batch.action, batch.environment).cpu()
    return policy.layout.action(policy.layout.index(name), action), batch.mask.float().cpu()[
        :, :, None
    ]


def _closest(drawn: Iterable[Tensor], action: Tensor, mask: Tensor) -> float:
    """Mean squared distance of chunks (B, H, A) to the closest of those drawn for each, over their
    variance.
    """
    errors = [((x - action).square() * mask).sum((1, 2)) for x in drawn]  # (B,) each
    mean = (action * mask).sum(0) / mask.sum(0).clamp(min=1)  # (H, A)
    spread = ((action - mean).square() * mask).sum()
    return float(torch.stack(errors).amin(0).sum() / spread.clamp(min=1e-6))


def neighbour_error(
    policy: DiffusionPolicy,
    demos: Steps,
    name: str,
    rng: np.random.Generator,
    rows: int = 1500,
    neighbours: int = 5,
) -> float | None:
    """E|n - a|^2 over the variance of recorded chunks a, n being the mean chunk of the nearest
    states of other episodes.

    What can be said of a chunk without learning: it tells an expert who is hard to predict from a
    policy that learned little. States alone are compared: None where the policy sees none, and for
    fewer than two episodes with whole chunks. Cost: a fifth of
    `rows` x `rows` distances, five times.
    """
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.neighbors import KNeighborsRegressor

    recorded = (demos.environment == name)[demos.episode_of_step] & demos.demonstrated
    chosen = np.flatnonzero(recorded)
    if len(chosen) > rows:
        chosen = np.sort(rng.choice(chosen, rows, replace=False))
    if not len(chosen) or not policy.environments[policy.layout.index(name)].of_kind("state"):
        return None
    batch = _recorded(policy, demos, recorded).gather(chosen)
    whole = batch.mask.bool().all(1).cpu().numpy()
    episode = demos.episode_of_step[chosen][whole]
    folds = min(5, len(np.unique(episode)))
    if folds < 2:
        return None
    own = partial(policy.layout.action, policy.layout.index(name))
    seen = policy.normalizer.observation(policy.fit_window(batch.window), batch.environment)
    states = [seen[key].flatten(1) for key in policy.layout.slices]
    x = torch.cat(states, dim=1).cpu().numpy()[whole]
    y = policy.normalizer.action(batch.action, batch.environment)
    y = own(y).flatten(1).cpu().numpy()[whole]
    x = (x - x.mean(0)) / np.maximum(x.std(0), 1e-6)
    splits = list(GroupKFold(folds).split(x, groups=episode))
    model = KNeighborsRegressor(
        min(neighbours, min(len(train) for train, _ in splits)), weights="distance"
    )
    predicted = cross_val_predict(model, x, y, cv=splits)
    return float(np.square(predicted - y).sum() / max(np.square(y - y.mean(0)).sum(), 1e-6))


def _recorded(policy: DiffusionPolicy, demos: Steps, rows: np.ndarray) -> TrainingData:
    """Recorded chunks of the rows (S,) that are True, on the policy's device."""
    return TrainingData(TrainingRows(steps=demos, probability=rows.astype(float)), policy)


def _noise(rng: np.random.Generator, rows: int, *policies: DiffusionPolicy) -> Tensor:
    """(B, draws, H, A) for the sampler of every one of them, in the sizes of the first, which is
    the largest.
    """
    first, count = policies[0], max(policy.draws for policy in policies)
    drawn = rng.standard_normal((count, rows, first.horizon, first.action_dim), dtype=np.float32)
    return torch.from_numpy(drawn).movedim(0, 1)


@torch.inference_mode()
def _chunks(
    policy: DiffusionPolicy,
    steps: Steps,
    rows: np.ndarray,
    name: str,
    noise: Tensor,
    units: DiffusionPolicy,
) -> Tensor:
    """(B, H, A) chunks that a policy draws at some steps, in the normalised actions of `units`.

    noise (B, draws, H, A) may have more draws and action dimensions than the policy uses.
    """
    index = policy.layout.index(name)
    environment = torch.full((len(rows),), index, device=policy.device)
    window = windows_of(policy, steps, rows)
    mine = policy.layout.fit_action(noise[:, : policy.draws]).to(policy.device)
    chunk = units.layout.fit_action(policy.sample_from(window, environment, mine))
    there = torch.full_like(environment, units.layout.index(name))
    chunk = units.normalizer.action(chunk.to(units.device), there).cpu()
    return pad(chunk, noise.shape[-1])
