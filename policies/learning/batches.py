"""Training batches: windows drawn from rows, balanced over environments; a pure function of (seed,
step).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from alltrades.data.steps import Steps
from alltrades.data.windows import WindowIndex
from alltrades.envs.symmetry import Symmetry
from alltrades.errors import UserError
from alltrades.policies.model.policy import Batch, DiffusionPolicy
from alltrades.policies.model.preference import draw_preferences
from alltrades.system.streams import stream

Symmetries = Mapping[str, Sequence[Symmetry]]  # by environment id


@dataclass(frozen=True)
class Labels:
    """Chunks in place of the recorded actions of some rows.

    Attributes:
        chunks: (L, H, A), in environment units.
        of_row: (S,) index into `chunks`, -1 for the recorded actions.
    """

    chunks: np.ndarray
    of_row: np.ndarray


@dataclass(frozen=True, kw_only=True)
class TrainingRows:
    """What batches are drawn from: S steps, each a row.

    A weight enters training in one of two ways that have the same expected gradient: as
    `probability` or as `loss_weight`.

    Attributes:
        steps: S steps of E episodes.
        probability: (S,) with which a row is drawn: non-negative, any scale, normalised within each
            environment.
        loss_weight: (S,) factor of a row's loss; None: 1.
        labels: what rows are to learn where it is not their recorded actions.
    """

    steps: Steps
    probability: np.ndarray
    loss_weight: np.ndarray | None = None
    labels: Labels | None = None


@dataclass(frozen=True)
class Augmentation:
    """What training makes of recorded windows.

    Attributes:
        hold_end: the last action counts as held after an episode's end, rather than masking those
            steps.
        symmetries: by environment; `TrainingData.batch` shows every window in a randomly chosen
            equivalent form.
    """

    hold_end: bool = False
    symmetries: Symmetries = field(default_factory=dict)

    def symmetric(self, wanted: bool) -> Augmentation:
        """The same, without symmetries unless they are wanted."""
        return self if wanted else replace(self, symmetries={})


PLAIN = Augmentation()


class TrainingData:
    """Rows as batches for one policy, in its sizes, on its device.

    Args:
        rows: those of environments that the policy does not know are ignored.
        policy: where the preference is one of its inputs, `batch` draws one for every sample (see
            `draw_preferences`).

    Raises UserError where no row can be drawn. Memory O(S); a batch costs O(B log S).
    """

    def __init__(
        self, rows: TrainingRows, policy: DiffusionPolicy, augmentation: Augmentation = PLAIN
    ) -> None:
        steps, layout = rows.steps, policy.layout
        self.device, self.count = policy.device, len(layout.ids)
        self.hold_end, self.concentration = augmentation.hold_end, policy.concentration
        position = {name: k for k, name in enumerate(layout.ids)}
        of_episode = np.array([position.get(str(e), -1) for e in steps.environment], dtype=np.int64)
        self.environment = of_episode[steps.episode_of_step]  # (S,)
        p = np.asarray(rows.probability, dtype=np.float64)
        p = np.where(self.environment >= 0, p, 0.0)
        self.order = np.argsort(self.environment, kind="stable")
        self.order = self.order[p[self.order] > 0]
        if len(self.order) == 0:
            raise UserError(
                "no training rows: every row has probability 0; expected demonstrations or "
                "successful rollouts; "
                "collect more, or turn the success filter off"
            )
        sorted_environment = self.environment[self.order]
        self.present, starts = np.unique(sorted_environment, return_index=True)
        self.bounds = np.append(starts, len(self.order))
        cumulative = np.empty(len(self.order))
        for i in range(len(self.present)):  # environment i owns the interval (i, i + 1]
            block = slice(self.bounds[i], self.bounds[i + 1])
            share = np.cumsum(p[self.order[block]])
            cumulative[block] = i + share / share[-1]
        self.cumulative = cumulative
        self.windows = WindowIndex(steps.ends, policy.n_obs_steps, policy.horizon)
        self.observation = torch.from_numpy(steps.observation.load(layout.obs_dim))
        self.action = torch.from_numpy(steps.action.load(layout.action_dim))
        weight = rows.loss_weight
        self.loss_weight = None if weight is None else np.asarray(weight, dtype=np.float32)
        self.labels = rows.labels
        self.symmetries: dict[
            Symmetry, np.ndarray
        ] = {}  # to (K,) bool: the environments that have it
        for k, name in enumerate(layout.ids):
            for symmetry in augmentation.symmetries.get(name, ()):
                self.symmetries.setdefault(symmetry, np.zeros(self.count, bool))[k] = True

    def rows(self, size: int, rng: np.random.Generator) -> np.ndarray:
        """`size` rows (B,), the same number (+-1) from every environment present."""
        slot = (np.arange(size) + rng.integers(len(self.present))) % len(self.present)  # (B,)
        found = np.searchsorted(self.cumulative, slot + rng.random(size), side="right")
        return self.order[np.minimum(found, self.bounds[slot + 1] - 1)]

    def gather(self, rows: np.ndarray, rng: np.random.Generator | None = None) -> Batch:
        """The batch of given rows (B,), as recorded, or with `rng` augmented by symmetries."""
        window = self.windows.take(rows)
        action = self.action[torch.from_numpy(window.action_index)]  # (B, H, A)
        mask = torch.from_numpy(window.action_mask.astype(np.float32))  # (B, H)
        if self.hold_end:
            mask = torch.ones_like(mask)
        if self.labels is not None:
            label = self.labels.of_row[rows]
            labelled = np.flatnonzero(label >= 0)
            action[labelled] = torch.from_numpy(self.labels.chunks[label[labelled]])
            mask[labelled] = 1.0
        observation = self.observation[torch.from_numpy(window.obs_index)]  # (B, n_obs_steps, D)
        if rng is not None:
            for symmetry, members in self.symmetries.items():
                symmetry.augment(
                    observation.numpy(),
                    action.numpy(),
                    np.flatnonzero(members[self.environment[rows]]),
                    rng,
                )
        weight = (
            torch.ones(len(rows))
            if self.loss_weight is None
            else torch.from_numpy(self.loss_weight[rows])
        )
        batch = (observation, action, mask, torch.from_numpy(self.environment[rows]), weight)
        return Batch(*(x.to(self.device, non_blocking=True) for x in batch))

    def batch(self, size: int, seed: int, step: int) -> tuple[Batch, np.ndarray]:
        """Batch number `step` and its rows."""
        rng = stream(seed, "batch", step)
        rows = self.rows(size, rng)
        batch = self.gather(rows, rng)
        if self.concentration is not None:
            drawn = draw_preferences(self.environment[rows], self.count, self.concentration, rng)
            batch.preference = torch.from_numpy(drawn).to(self.device, non_blocking=True)
        return batch, rows


def demonstration_data(
    demos: Steps, policy: DiffusionPolicy, augmentation: Augmentation = PLAIN
) -> TrainingData:
    """Recorded actions of all demonstrations that have actions, uniform over steps."""
    recorded = demos.has_actions[demos.episode_of_step].astype(float)
    return TrainingData(TrainingRows(steps=demos, probability=recorded), policy, augmentation)


def stack_batches(batches: Sequence[Batch]) -> Batch:
    """The rows of several networks as equal blocks of one batch, whose environment is the network's
    number.
    """
    network = torch.arange(len(batches), device=batches[0].action.device)
    window, action, mask, weight = (
        torch.cat([getattr(b, name) for b in batches])
        for name in ("window", "action", "mask", "loss_weight")
    )
    return Batch(window, action, mask, network.repeat_interleave(len(batches[0].action)), weight)


def windows_of(policy: DiffusionPolicy, steps: Steps, rows: np.ndarray) -> Tensor:
    """Observation windows (B, n_obs_steps, D) of given rows (B,), on the policy's device."""
    index = WindowIndex(steps.ends, policy.n_obs_steps, 1).take(rows).obs_index
    window = steps.observation.take(index, policy.layout.obs_dim)
    return torch.from_numpy(window).to(policy.device)
