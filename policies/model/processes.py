"""Noising processes x_t = alpha(t) x_0 + sigma(t) eps on times t in [0, 1]: t = 0 is data, t = 1 is
noise.

Both processes here satisfy a(t) alpha(t) - b(t) sigma(t) = 1 for their velocity v = a eps + b x_0,
which makes every conversion between sample, noise and velocity a closed form.
"""

from __future__ import annotations

import math
from typing import Literal, cast

import torch
from torch import Tensor

from alltrades.errors import UserError, nearest

Prediction = Literal["sample", "noise", "velocity"]
PREDICTIONS = ("sample", "noise", "velocity")
PROCESSES = ("flow", "vp")
Time = Tensor | float


class Process:
    """Base of the processes: everything that follows from (alpha, sigma).

    Args:
        prediction: what the network predicts: the clean "sample", the "noise" or the "velocity".

    Times are tensors (B,) in training and Python floats in the samplers, where the coefficients are
    then Python floats in double precision, constants of an exported graph. Results are float32 on
    the device of the inputs.
    """

    steps: int = 0  # training discretisation; 0: continuous time
    floor: float = 1e-6  # smallest divisor in conversions that are singular at an end of time

    def __init__(self, prediction: str) -> None:
        if prediction not in PREDICTIONS:
            raise UserError(
                f"prediction '{prediction}'; expected one of "
                f"{', '.join(PREDICTIONS)}{nearest(prediction, list(PREDICTIONS))}"
            )
        self.prediction = cast(Prediction, prediction)

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha (B,), sigma (B,) at times (B,)."""
        raise NotImplementedError

    def coefficients_at(self, t: float) -> tuple[float, float]:
        """alpha, sigma at one time, in double precision."""
        raise NotImplementedError

    def grid(self, steps: int) -> list[float]:
        """Decreasing sampling times: steps + 1 values from 1 (noise) to 0 (data)."""
        raise NotImplementedError

    def draw_time(self, uniform: Tensor) -> Tensor:
        """Training times (B,) from uniforms (B,) in [0, 1)."""
        raise NotImplementedError

    def _velocity(self, alpha: Time, sigma: Time) -> tuple[Time, Time]:
        """Coefficients (a, b) of the velocity v = a eps + b x_0."""
        raise NotImplementedError

    # ---- training --------------------------------------------------------------------------------
    def noise(self, x0: Tensor, eps: Tensor, t: Time) -> Tensor:
        """x_t (B, ...) from clean x0 (B, ...), noise eps (B, ...) and times."""
        alpha, sigma = self._broadcast(t, x0)
        return alpha * x0 + sigma * eps

    def target(self, x0: Tensor, eps: Tensor, t: Time) -> Tensor:
        """What the network should predict at x_t (B, ...)."""
        if self.prediction == "sample":
            return x0
        if self.prediction == "noise":
            return eps
        a, b = self._velocity(*self._broadcast(t, x0))
        return a * eps + b * x0

    # ---- conversions -----------------------------------------------------------------------------
    def convert(self, prediction: Tensor, source: str, to: str, x_t: Tensor, t: Time) -> Tensor:
        """Express a prediction of kind `source` as kind `to`; all tensors (B, ...).

        Noise -> sample divides by alpha and sample -> noise by sigma; the divisors are bounded
        below by `floor`, so that the ends of time give finite numbers.
        """
        if source == to:
            return prediction
        alpha, sigma = self._broadcast(t, x_t)
        a, b = self._velocity(alpha, sigma)
        if source == "velocity":  # invert [alpha sigma; b a], whose determinant is 1
            return a * x_t - sigma * prediction if to == "sample" else alpha * prediction - b * x_t
        if source == "noise":
            x0 = (x_t - sigma * prediction) / _at_least(alpha, self.floor)
            return x0 if to == "sample" else a * prediction + b * x0
        eps = (x_t - alpha * prediction) / _at_least(sigma, self.floor)
        return eps if to == "noise" else a * eps + b * prediction

    def to_sample(self, prediction: Tensor, x_t: Tensor, t: Time) -> Tensor:
        """Clean sample x_0 that the network's prediction implies at x_t."""
        return self.convert(prediction, self.prediction, "sample", x_t, t)

    def _broadcast(self, t: Time, like: Tensor) -> tuple[Time, Time]:
        """alpha and sigma at t, shaped (B, 1, ...) to multiply `like`; floats for a float time."""
        if isinstance(t, Tensor):
            alpha, sigma = self.coefficients(t)
            shape = (-1,) + (1,) * (like.dim() - 1)
            return alpha.view(shape), sigma.view(shape)
        return self.coefficients_at(t)


class FlowMatching(Process):
    """Straight paths x_t = (1 - t) x_0 + t eps with velocity eps - x_0 (Lipman et al. 2023; Liu et
    al. 2023).

    A noise prediction says nothing about the sample at t = 1, where alpha = 0: the divisor is kept
    at 1e-3, and a sampler should clip.
    """

    floor = 1e-3

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return 1.0 - t, t

    def coefficients_at(self, t: float) -> tuple[float, float]:
        return 1.0 - t, t

    def grid(self, steps: int) -> list[float]:
        return [1.0 - i / steps for i in range(steps)] + [0.0]

    def draw_time(self, uniform: Tensor) -> Tensor:
        return uniform

    def _velocity(self, alpha: Time, sigma: Time) -> tuple[Time, Time]:
        return 1.0, -1.0


class VPDiffusion(Process):
    """Variance-preserving diffusion in discrete steps k = 0 .. steps - 1, at t = (k + 1) / steps
    (Ho et al. 2020).

    Args:
        schedule: "cosine" (Nichol & Dhariwal 2021, betas capped at 0.999) or "linear" (betas from
            1e-4 to 0.02 for 1000 steps, scaled by 1000 / steps so that the chain always ends in
            noise).
        steps: training discretisation.
        prediction: "sample", "noise" or "velocity" = alpha eps - sigma x_0 (Salimans & Ho 2022,
            appendix D).
    """

    def __init__(
        self, schedule: str = "cosine", steps: int = 100, prediction: str = "noise"
    ) -> None:
        super().__init__(prediction)
        if steps < 2:
            raise UserError(f"{steps} diffusion steps; expected at least 2; raise diffusion_steps")
        self.schedule, self.steps = schedule, steps
        signal = torch.cumprod(
            1.0 - betas(schedule, steps), dim=0
        )  # (steps,) alpha_bar, double precision
        signal = torch.cat(
            [torch.ones(1, dtype=torch.float64), signal]
        )  # (steps + 1,); index 0 is t = 0
        self._exact = list(zip(signal.sqrt().tolist(), (1.0 - signal).sqrt().tolist()))
        self._table = torch.stack(
            [signal.sqrt(), (1.0 - signal).sqrt()], dim=1
        ).float()  # (steps + 1, 2)

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        if self._table.device != t.device:
            self._table = self._table.to(t.device)
        rows = self._table[(t * self.steps).round().long()]  # (B, 2)
        return rows[:, 0], rows[:, 1]

    def coefficients_at(self, t: float) -> tuple[float, float]:
        return self._exact[round(t * self.steps)]

    def grid(self, steps: int) -> list[float]:
        """Trailing spacing: starts at the noisiest training step (Lin et al. 2024, table 2)."""
        if steps > self.steps:
            raise UserError(
                f"{steps} sampling steps for a process of {self.steps} training steps; expected at "
                f"most {self.steps}; lower sampling_steps"
            )
        return [round(self.steps - i * self.steps / steps) / self.steps for i in range(steps)] + [
            0.0
        ]

    def draw_time(self, uniform: Tensor) -> Tensor:
        k = (uniform * self.steps).floor().clamp(max=self.steps - 1)
        return (k + 1.0) / self.steps

    def _velocity(self, alpha: Time, sigma: Time) -> tuple[Time, Time]:
        return alpha, -sigma


def betas(schedule: str, steps: int) -> Tensor:
    """Noise increments beta_k (steps,) in double precision; raises UserError for an unknown
    schedule.
    """
    if schedule == "cosine":  # Nichol & Dhariwal 2021, equation 17

        def bar(u: float) -> float:
            return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

        values = [min(1.0 - bar((k + 1) / steps) / bar(k / steps), 0.999) for k in range(steps)]
        return torch.tensor(values, dtype=torch.float64)
    if schedule == "linear":
        scale = 1000.0 / steps
        return torch.linspace(scale * 1e-4, scale * 0.02, steps, dtype=torch.float64).clamp(
            max=0.999
        )
    raise UserError(
        f"noise schedule '{schedule}'; expected cosine or "
        f"linear{nearest(schedule, ['cosine', 'linear'])}"
    )


def make_process(name: str, prediction: str, steps: int = 100, schedule: str = "cosine") -> Process:
    """Build a process by name: "flow" (steps and schedule do not apply) or "vp"; raises UserError
    for other names.
    """
    if name == "flow":
        return FlowMatching(prediction)
    if name == "vp":
        return VPDiffusion(schedule, steps, prediction)
    raise UserError(
        f"process '{name}'; expected one of {', '.join(PROCESSES)}{nearest(name, list(PROCESSES))}"
    )


def _at_least(value: Time, floor: float) -> Time:
    return value.clamp(min=floor) if isinstance(value, Tensor) else max(value, floor)
