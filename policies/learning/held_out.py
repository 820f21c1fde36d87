"""Episodes that are kept from training, and the loss on them."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from alltrades.data.steps import Steps
from alltrades.policies.learning.batches import TrainingData, stack_batches
from alltrades.policies.learning.objectives import Linear
from alltrades.policies.model.batch import Batch
from alltrades.policies.model.policy import DiffusionPolicy
from alltrades.policies.settings import FEWEST
from alltrades.system.streams import stream

LOOKS = 10  # at held-out losses during a training


def look_steps(total: int) -> list[int]:
    """The steps of a training at which its average is looked at: ten, evenly spread."""
    return [max(1, round(total * (i + 1) / LOOKS)) for i in range(LOOKS)]


def hold_out(demos: Steps, seed: int) -> np.ndarray:
    """(E,) bool: a fifth of each environment's episodes, at least one of 3 and more, none
    of fewer.
    """
    rng = stream(seed, "held out")
    held = np.zeros(len(demos.environment), bool)
    for name in demos.of_environment:
        shuffled = rng.permutation(demos.acted(name))
        held[shuffled[: max(1, len(shuffled) // 5)]] = len(shuffled) >= FEWEST
    return held


def held_out_batch(data: TrainingData, seed: int, draws: int = 1024) -> Batch:
    """Fixed rows of held-out episodes: the same for every checkpoint and every candidate of one
    selection.
    """
    return data.gather(data.rows(draws, stream(seed, "held out", "rows")))


class HeldOutLoss:
    """Denoising losses on rows kept from training, at fixed rows, noise and times: the same at
    every step.

    Args:
        batches: rows of each network (one, or the members of a stack), equally many.
        seeds: of each network's noise.
        total: steps of the training, of which ten, evenly spread, are looked at.
        preference: of one network over its environments, in whose proportion they count; default:
            all rows alike.
    """

    def __init__(
        self,
        batches: Sequence[Batch],
        seeds: Sequence[int],
        total: int,
        preference: Linear | None = None,
    ) -> None:
        self.batch = batches[0] if len(batches) == 1 else stack_batches(batches)
        self.seeds, self.preference = seeds, preference
        self.steps = look_steps(total)
        self._policy: DiffusionPolicy | None = None

    def __call__(self, policy: DiffusionPolicy, weights: Sequence[Tensor]) -> list[float]:
        """Mean loss of each network under `weights`, in the order of the policy's parameters."""
        if self._policy is None:
            self._policy = copy.deepcopy(policy).eval()
        device, batch = self.batch.action.device, self.batch
        generators = [torch.Generator(device).manual_seed(s) for s in self.seeds]
        with torch.inference_mode():
            learned: list[Tensor] = [p for p in self._policy.parameters() if p.requires_grad]
            torch._foreach_copy_(learned, list(weights))
            losses = self._policy.loss(batch, generators)
            if self.preference is not None:
                return [float(self.preference(losses, batch.environment, batch.loss_weight))]
            return losses.unflatten(0, (len(generators), -1)).mean(1).tolist()
