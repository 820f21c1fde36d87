"""Samplers: from noise to a clean chunk in a few network calls.

Every sampler is one loop over a grid of Python-float times, so that its coefficients are constants
of an exported graph and no control flow depends on data. All of them work on the clean sample that
the network's prediction implies, which is what `bounds` limits. They hold for both processes,
because they read only (alpha, sigma); where alpha = 0 (flow at t = 1) or sigma = 0 (t = 0) nothing
divides by it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from alltrades.errors import UserError, nearest
from alltrades.policies.model.processes import Process

Denoise = Callable[[Tensor, Tensor], Tensor]  # (x_t (B, ...), t (B,)) -> prediction (B, ...)
Clean = Callable[[Tensor, float], Tensor]  # (x_t (B, ...), t) -> x_0 (B, ...)
Draw = Callable[[], Tensor] | None
Sampler = Callable[[Process, Clean, Tensor, list[float], Draw], Tensor]


def sample(
    name: str,
    process: Process,
    denoise: Denoise,
    noise: Tensor,
    steps: int,
    draw: Draw = None,
    bounds: tuple[Tensor, Tensor] | None = None,
    known: Tensor | None = None,
    keep: Tensor | None = None,
) -> Tensor:
    """Draw x_0 (B, ...) from initial noise (B, ...).

    Args:
        name: "ddpm", "ddim", "dpmpp2m", "euler" or "heun".
        process: the process that the network was trained with.
        denoise: the network: (x_t (B, ...), t (B,)) -> prediction of the process's kind.
        noise: standard normal (B, ...).
        steps: network calls; heun takes 2 * steps - 1.
        draw: fresh standard normal noise (B, ...) at each call; needed by "ddpm" only.
        bounds: least and largest values of the predicted clean sample, which broadcast to it; None
            for none.
        known, keep: a chunk (B, ...) and how much of it stays, weights in [0, 1] that broadcast to
            it. The network sees `known`, noised to the current time, in place of x_t where the
            weight is 1, and the clean sample is held to it: the result equals `known` there, and
            the rest is drawn to fit (inpainting, as in real-time chunking, Black et al. 2025, in a
            form without gradients).

    Raises UserError for an unknown sampler, fewer than one step, more steps than a discrete process
    was trained with, or "ddpm" without `draw`.
    """
    if name not in SAMPLERS:
        raise UserError(
            f"sampler '{name}'; expected one of "
            f"{', '.join(SAMPLERS)}{nearest(name, list(SAMPLERS))}"
        )
    if steps < 1:
        raise UserError(f"{steps} sampling steps; expected at least 1; raise sampling_steps")
    if name in STOCHASTIC and draw is None:
        raise UserError(
            f"sampler '{name}' draws fresh noise at every step and was given none; expected a "
            "source of noise; use ddim, dpmpp2m, euler or heun for a deterministic policy"
        )

    def clean(x: Tensor, t: float) -> Tensor:
        if known is not None and keep is not None:
            x = x + keep * (process.noise(known, noise, t) - x)
        prediction = denoise(x, x.new_full((x.shape[0],), t))
        x0 = process.to_sample(prediction, x, t)
        x0 = x0 if bounds is None else x0.clamp(*bounds)
        return x0 if known is None or keep is None else x0 + keep * (known - x0)

    return SAMPLERS[name](process, clean, noise, process.grid(steps), draw)


def _ode_step(process: Process, x: Tensor, x0: Tensor, t: float, s: float) -> Tensor:
    """Move x_t to x_s along the probability-flow ODE with x_0 held fixed.

    x_s = (sigma_s / sigma_t) x_t + (alpha_s - alpha_t sigma_s / sigma_t) x_0. For
    variance-preserving diffusion this is DDIM with eta = 0 (Song et al. 2021, equation 12), for
    flow matching x_t + (s - t) velocity.
    """
    (alpha_t, sigma_t), (alpha_s, sigma_s) = process.coefficients_at(t), process.coefficients_at(s)
    ratio = sigma_s / sigma_t
    if ratio == 0.0:
        return alpha_s * x0
    return ratio * x + (alpha_s - alpha_t * ratio) * x0


def euler(
    process: Process, clean: Clean, x: Tensor, times: list[float], draw: Draw = None
) -> Tensor:
    """Euler steps of the probability-flow ODE in sigma / alpha: DDIM for diffusion, plain Euler for
    flow.
    """
    for t, s in zip(times, times[1:]):
        x = _ode_step(process, x, clean(x, t), t, s)
    return x


def heun(
    process: Process, clean: Clean, x: Tensor, times: list[float], draw: Draw = None
) -> Tensor:
    """Second order with two calls a step: the step is taken again with the mean of x_0 at its two
    ends.

    This is singlestep DPM-Solver++ of order two with r = 1 (Lu et al. 2022, algorithm 1). The last
    step ends at sigma = 0, where there is nothing left to predict, and is an Euler step.
    """
    for t, s in zip(times[:-2], times[1:-1]):
        here = clean(x, t)
        there = clean(_ode_step(process, x, here, t, s), s)
        x = _ode_step(process, x, 0.5 * (here + there), t, s)
    return _ode_step(process, x, clean(x, times[-2]), times[-2], times[-1])


def dpmpp2m(
    process: Process, clean: Clean, x: Tensor, times: list[float], draw: Draw = None
) -> Tensor:
    """DPM-Solver++ (2M), midpoint form, first order at both ends (Lu et al. 2022, algorithm 2)."""
    log_snr = [_half_log_snr(process, t) for t in times]
    before: Tensor | None = None
    for i, (t, s) in enumerate(zip(times, times[1:])):
        x0 = extrapolated = clean(x, t)
        if before is not None and i < len(times) - 2:
            # step over the previous step, in lambda; 0 after a step from pure noise (lambda = -inf)
            inverse_r = (log_snr[i + 1] - log_snr[i]) / (log_snr[i] - log_snr[i - 1])
            extrapolated = x0 + (0.5 * inverse_r) * (x0 - before)
        x = _ode_step(process, x, extrapolated, t, s)
        before = x0
    return x


def ddpm(
    process: Process, clean: Clean, x: Tensor, times: list[float], draw: Draw = None
) -> Tensor:
    """Ancestral sampling from q(x_s | x_t, x_0) with the small variance (Ho et al. 2020, equations
    6 and 7).

    Written in (alpha, sigma) as in Kingma et al. 2021, equation 25, and so valid for any process.
    """
    assert draw is not None
    for t, s in zip(times, times[1:]):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = (
            process.coefficients_at(t),
            process.coefficients_at(s),
        )
        keep = alpha_t / alpha_s
        added = sigma_t**2 - keep**2 * sigma_s**2  # variance of q(x_t | x_s)
        x0 = clean(x, t)
        x = (keep * sigma_s**2 / sigma_t**2) * x + (alpha_s * added / sigma_t**2) * x0
        if sigma_s > 0.0:
            x = x + (math.sqrt(added) * sigma_s / sigma_t) * draw()
    return x


def _half_log_snr(process: Process, t: float) -> float:
    """lambda = log(alpha / sigma); -inf at pure noise, inf at clean data."""
    alpha, sigma = process.coefficients_at(t)
    if alpha == 0.0:
        return -math.inf
    return math.inf if sigma == 0.0 else math.log(alpha / sigma)


SAMPLERS: dict[str, Sampler] = {
    "ddpm": ddpm,
    "ddim": euler,
    "dpmpp2m": dpmpp2m,
    "euler": euler,
    "heun": heun,
}
STOCHASTIC = frozenset({"ddpm"})


def draws(name: str, steps: int) -> int:
    """Standard normal arrays that one call of `sample` uses: the initial one, and one before each
    further step of ddpm.
    """
    return steps if name in STOCHASTIC else 1
