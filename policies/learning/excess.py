"""Normalised excess losses: what the objectives for the worst environment compare.

E_k = (L_k(g) - L_k(h_k)) / C_k with teacher h_k at the same chunk, noise and time, and C_k the
excess over h_k of a predictor that sees the noised chunk and t but not the state: 0 is the
teacher's loss, 1 that of ignoring the state. For the blind predictor the best affine one is taken
(that of a Gaussian law of chunks), which is known in closed form. The choice is this project's own.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from alltrades.policies.learning.batches import TrainingData
from alltrades.policies.learning.teachers import TeacherPredictions, check_comparable
from alltrades.policies.model.batch import Batch, Generators, Noised
from alltrades.policies.model.policy import DiffusionPolicy
from alltrades.system.streams import stream, stream_seed

DRAWS = 2048  # rows of an environment from which C_k is estimated
LEAST = 1e-4  # smallest C_k: where the state says nothing about the chunk no excess is worth more
WHAT = ("excess losses", "objective: linear")  # see `check_comparable`


class ExcessLoss:
    """Normalised excess loss of every sample.

    Args:
        predictions: of the teacher of every row; rows without one keep their plain loss.
        data: the training data; C_k is estimated on rows drawn from it.
        policy: the generalist.
        seed: of the estimate of C_k.
    """

    def __init__(
        self,
        predictions: TeacherPredictions,
        data: TrainingData,
        policy: DiffusionPolicy,
        seed: int,
    ) -> None:
        self.predictions = predictions
        self.scale = self._scales(data, policy, seed)  # (K,)

    def __call__(
        self, policy: DiffusionPolicy, batch: Batch, generator: Generators, rows: np.ndarray
    ) -> Tensor:
        noised = policy.noised(batch, generator)
        target, reference = self._reference(policy, batch, noised, rows)
        errors = policy.errors(policy.predict(batch, noised), target, batch)
        return (errors - reference) / self.scale[batch.environment]

    def _reference(
        self, policy: DiffusionPolicy, batch: Batch, noised: Noised, rows: np.ndarray
    ) -> tuple[Tensor, Tensor]:
        """Target (B, H, A) and the teacher's own error (B,) at it."""
        target, predicted, known = self.predictions.target(policy, batch, noised, rows)
        return target, torch.where(known, policy.errors(predicted, target, batch), 0.0)

    @torch.no_grad()
    def _scales(self, data: TrainingData, policy: DiffusionPolicy, seed: int) -> Tensor:
        every = data.rows(DRAWS * len(data.present), stream(seed, "excess"))
        out = torch.ones(data.count, device=data.device)
        for k in data.present:
            rows = every[data.environment_of(every) == k]
            batch = data.gather(rows)
            generator = torch.Generator(data.device).manual_seed(stream_seed(seed, "excess"))
            noised = policy.noised(batch, generator)
            x_t, t, _ = noised
            target, reference = self._reference(policy, batch, noised, rows)
            clean = policy.normalizer.action(batch.action, batch.environment)
            clean = clean * policy.dims(batch.environment)
            blind = policy.process.convert(
                affine_denoiser(clean, x_t, *policy.process.coefficients(t)),
                "sample",
                policy.settings.prediction,
                x_t,
                t,
            )
            out[k] = (policy.errors(blind, target, batch) - reference).mean().clamp(min=LEAST)
        return out


def demonstration_excess(
    reference: Mapping[str, DiffusionPolicy],
    data: TrainingData,
    policy: DiffusionPolicy,
    seed: int,
) -> ExcessLoss:
    """Excess of a policy on demonstrations over specialists, of which nothing else is learned.

    Args:
        reference: specialist of every environment.
    """
    teachers = {"reference": reference}
    check_comparable(policy, teachers, *WHAT)
    teacher_of_row = np.zeros(len(data), dtype=np.int64)
    return ExcessLoss(TeacherPredictions(teachers, policy, teacher_of_row), data, policy, seed)


def affine_denoiser(clean: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Best affine estimate of x_0 from x_t = alpha x_0 + sigma eps: m + alpha S (alpha^2 S +
    sigma^2 I)^-1 (x_t - alpha m).

    Args:
        clean: (N, ...) samples of x_0, from which its mean m and covariance S are taken.
        x_t: (B, ...) noised samples at coefficients alpha, sigma (B,).

    Returns (B, ...) in the dtype of x_t. O(N d^2 + d^3) for d entries of a sample.
    """
    flat, x = clean.flatten(1).double(), x_t.flatten(1).double()  # (N, d), (B, d)
    mean = flat.mean(0)
    variance, axes = torch.linalg.eigh((flat - mean).T @ (flat - mean) / len(flat))  # (d,), (d, d)
    variance = variance.clamp(min=0.0)
    a, s = alpha.double()[:, None], sigma.double()[:, None]  # (B, 1)
    gain = a * variance / (a**2 * variance + s**2).clamp(min=1e-12)  # (B, d)
    return (mean + (gain * ((x - a * mean) @ axes)) @ axes.T).to(x_t.dtype).view_as(x_t)
