"""Training batches: windows drawn from steps, balanced over environments; a pure function of (seed,
step).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from alltrades.data.steps import Steps
from alltrades.data.windows import WindowIndex
from alltrades.envs.symmetry import Symmetry
from alltrades.errors import UserError
from alltrades.policies.model.policy import Batch
from alltrades.policies.model.preference import draw_preferences
from alltrades.system.streams import stream

Symmetries = Mapping[str, Sequence[Symmetry]]  # by environment id


class TrainingData:
    """Rows of a set of steps with a sampling probability each.

    Args:
        steps: S steps of E episodes.
        environments: ids in the order of the policy; rows of other environments are ignored.
        n_obs_steps, horizon: window sizes.
        obs_dim, action_dim: padded sizes of the policy.
        probability: (S,) non-negative, any scale; normalised within each environment. Default:
            uniform over steps.
        weight: (S,) factors of the loss. Default: ones.
        hold_end: treat the last action as held after an episode's end, rather than masking those
            steps.
        labels: (L, horizon, action_dim) chunks that replace the recorded actions of some rows.
        label_of_row: (S,) index into `labels`, or -1 for the recorded actions.
        symmetries: by environment; `batch` shows every window in a randomly chosen equivalent form.
        concentration: `batch` draws a preference for every sample from this Dirichlet law (see
            `draw_preferences`); None: none.
        device: where batches are put.

    Memory O(S); a batch costs O(B log S).
    """

    def __init__(
        self,
        steps: Steps,
        environments: Sequence[str],
        n_obs_steps: int,
        horizon: int,
        obs_dim: int,
        action_dim: int,
        probability: np.ndarray | None = None,
        weight: np.ndarray | None = None,
        hold_end: bool = False,
        labels: np.ndarray | None = None,
        label_of_row: np.ndarray | None = None,
        symmetries: Symmetries | None = None,
        concentration: float | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.device = torch.device(device)
        count = len(steps.observation)
        position = {name: k for k, name in enumerate(environments)}
        of_episode = np.array([position.get(str(e), -1) for e in steps.environment], dtype=np.int64)
        self.environment = of_episode[steps.episode_of_step]  # (S,)
        p = np.ones(count) if probability is None else np.asarray(probability, dtype=np.float64)
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
        self.windows = WindowIndex(steps.ends, n_obs_steps, horizon)
        self.observation = torch.from_numpy(steps.observation.load(obs_dim))
        self.action = torch.from_numpy(steps.action.load(action_dim))
        self.weight = None if weight is None else np.asarray(weight, dtype=np.float32)
        self.hold_end, self.concentration, self.count = hold_end, concentration, len(environments)
        self.labels = None if labels is None else torch.from_numpy(labels)
        self.label_of_row = label_of_row
        self.symmetries: dict[
            Symmetry, np.ndarray
        ] = {}  # to (K,) bool: the environments that have it
        for k, name in enumerate(environments):
            for symmetry in (symmetries or {}).get(name, ()):
                self.symmetries.setdefault(symmetry, np.zeros(len(environments), bool))[k] = True

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
        if self.labels is not None and self.label_of_row is not None:
            label = torch.from_numpy(self.label_of_row[rows])
            labelled = label >= 0
            action[labelled] = self.labels[label[labelled]]
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
            torch.ones(len(rows)) if self.weight is None else torch.from_numpy(self.weight[rows])
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


def stack_batches(batches: Sequence[Batch]) -> Batch:
    """The rows of several networks as equal blocks of one batch, whose environment is the network's
    number.
    """
    network = torch.arange(len(batches), device=batches[0].action.device)
    window, action, mask, weight = (
        torch.cat([getattr(b, name) for b in batches])
        for name in ("window", "action", "mask", "weight")
    )
    return Batch(window, action, mask, network.repeat_interleave(len(batches[0].action)), weight)


def windows_of(steps: Steps, rows: np.ndarray, n_obs_steps: int, obs_dim: int) -> Tensor:
    """Observation windows (B, n_obs_steps, D) of given rows."""
    index = WindowIndex(steps.ends, n_obs_steps, 1).take(rows).obs_index
    return torch.from_numpy(steps.observation.take(index, obs_dim))
