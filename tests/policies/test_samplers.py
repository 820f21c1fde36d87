"""Samplers against diffusers' schedulers and against Gaussians whose flow is known in
closed form.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from alltrades.errors import UserError
from alltrades.policies.model.processes import (
    PREDICTIONS,
    PROCESSES,
    FlowMatching,
    Process,
    VPDiffusion,
    make_process,
)
from alltrades.policies.model.samplers import SAMPLERS, STOCHASTIC, sample

diffusers = pytest.importorskip("diffusers", reason="needs: pip install alltrades[test]")

THEIR_NAME = {"noise": "epsilon", "sample": "sample", "velocity": "v_prediction"}
ODE = sorted(set(SAMPLERS) - STOCHASTIC)
MEAN, DEVIATION = 0.3, 0.5


def noise(batch: int = 8, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(batch, 6, 2, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def source(seed: int) -> Callable[[], Tensor]:
    g = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(8, 6, 2, generator=g)


def network(process: Process, wiggle: float = 0.0) -> Callable[[Tensor, Tensor], Tensor]:
    """The exact denoiser of N(MEAN, DEVIATION^2) data, plus an optional nonlinear term, as
    `process` predicts.
    """

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        assert t.shape == (len(x),)
        alpha, sigma = (c.view(-1, 1, 1) for c in process.coefficients(t))
        gain = alpha * DEVIATION**2 / (alpha**2 * DEVIATION**2 + sigma**2)
        x0 = MEAN + gain * (x - alpha * MEAN) + wiggle * alpha * (3 * x).sin()
        return process.convert(x0, "sample", process.prediction, x, t)

    return denoise


def theirs(
    kind: type,
    process: VPDiffusion,
    x: Tensor,
    steps: int,
    step_options: dict[str, Any],
    **options: Any,
) -> Tensor:
    """The same network in a scheduler of diffusers."""
    scheduler = kind(
        process.steps,
        beta_schedule="squaredcos_cap_v2",
        timestep_spacing="trailing",
        prediction_type=THEIR_NAME[process.prediction],
        **options,
    )
    # its table in double precision: the single-precision one is off by 2e-5 at the last, capped
    # beta
    scheduler.alphas_cumprod = torch.cumprod(1.0 - scheduler.betas.double(), 0)
    scheduler.set_timesteps(steps)
    denoise = network(process, wiggle=0.3)
    for k in scheduler.timesteps:
        prediction = denoise(x, torch.full((len(x),), (int(k) + 1) / process.steps))
        x = scheduler.step(prediction, k, x, **step_options).prev_sample.to(x.dtype)
    return x


def within(clip: float | None) -> tuple[Tensor, Tensor] | None:
    """Bounds +-clip."""
    return None if clip is None else (torch.tensor(-clip), torch.tensor(clip))


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("clip", [None, 0.8])
@pytest.mark.parametrize("steps", [10, 50, 100])
def test_ddim_agrees_with_diffusers(prediction: str, clip: float | None, steps: int) -> None:
    process = VPDiffusion("cosine", 100, prediction)
    expected = theirs(
        diffusers.DDIMScheduler,
        process,
        noise(),
        steps,
        {"use_clipped_model_output": clip is not None},
        clip_sample=clip is not None,
        clip_sample_range=clip or 1.0,
    )
    mine = sample("ddim", process, network(process, 0.3), noise(), steps, bounds=within(clip))
    torch.testing.assert_close(mine, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("clip", [None, 0.8])
@pytest.mark.parametrize("steps", [10, 100])
def test_ddpm_agrees_with_diffusers_draw_for_draw(
    prediction: str, clip: float | None, steps: int
) -> None:
    process = VPDiffusion("cosine", 100, prediction)
    expected = theirs(
        diffusers.DDPMScheduler,
        process,
        noise(),
        steps,
        {"generator": torch.Generator().manual_seed(5)},
        clip_sample=clip is not None,
        clip_sample_range=clip or 1.0,
    )
    mine = sample("ddpm", process, network(process, 0.3), noise(), steps, source(5), within(clip))
    torch.testing.assert_close(mine, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("steps", [1, 2, 3, 6, 10, 25])
def test_dpmpp2m_agrees_with_diffusers(prediction: str, steps: int) -> None:
    process = VPDiffusion("cosine", 100, prediction)
    expected = theirs(
        diffusers.DPMSolverMultistepScheduler,
        process,
        noise(),
        steps,
        {},
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
    )
    mine = sample("dpmpp2m", process, network(process, 0.3), noise(), steps)
    torch.testing.assert_close(mine, expected, atol=1e-5, rtol=0)


def gaussian_end(process: Process, x: Tensor) -> Tensor:
    """Where the probability-flow ODE takes x from t = 1 to t = 0: standardised values do not change
    along it.
    """
    alpha, sigma = process.coefficients_at(1.0)
    return MEAN + DEVIATION * (x - alpha * MEAN) / math.sqrt(alpha**2 * DEVIATION**2 + sigma**2)


@pytest.mark.parametrize("name", ODE)
@pytest.mark.parametrize("kind", PROCESSES)
@pytest.mark.parametrize("prediction", ["sample", "velocity"])
def test_ode_samplers_carry_gaussian_quantiles_along(name: str, kind: str, prediction: str) -> None:
    process = make_process(kind, prediction, steps=1000)
    x = noise(dtype=torch.float64)
    steps = 400 if name in ("ddim", "euler") else 100
    out = sample(name, process, network(process), x, steps)
    torch.testing.assert_close(out, gaussian_end(process, x), atol=1e-2, rtol=0)


class Circle(FlowMatching):
    """Variance-preserving, at uniform angle: the limit of the cosine schedule without its offset
    and its cap.
    """

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return (0.5 * math.pi * t).cos(), (0.5 * math.pi * t).sin()

    def coefficients_at(self, t: float) -> tuple[float, float]:
        return math.cos(0.5 * math.pi * t), math.sin(0.5 * math.pi * t)


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("heun", 2)])
@pytest.mark.parametrize("kind", [FlowMatching, Circle])
def test_the_error_falls_with_the_order_of_the_sampler(
    name: str, order: int, kind: type[FlowMatching]
) -> None:
    process = kind("sample")
    x = noise(dtype=torch.float64)
    error = [
        (sample(name, process, network(process), x, n) - gaussian_end(process, x))
        .abs()
        .max()
        .item()
        for n in (64, 128)
    ]
    assert math.log2(error[0] / error[1]) == pytest.approx(order, abs=0.3)


@pytest.mark.parametrize("kind", PROCESSES)
def test_multistep_beats_ddim_at_equal_network_calls(kind: str) -> None:
    process = make_process(kind, "sample", steps=1000)
    x = noise(dtype=torch.float64)
    for steps in (10, 20, 50):
        error = {
            n: (sample(n, process, network(process), x, steps) - gaussian_end(process, x))
            .abs()
            .max()
            .item()
            for n in ("ddim", "dpmpp2m")
        }
        assert error["dpmpp2m"] < 0.5 * error["ddim"]


@pytest.mark.parametrize("kind", PROCESSES)
def test_ancestral_sampling_draws_from_the_data_law(kind: str) -> None:
    process = make_process(kind, "sample", steps=200)
    g = torch.Generator().manual_seed(0)
    start = torch.randn(4000, 6, 2, generator=g)
    out = sample(
        "ddpm", process, network(process), start, 200, lambda: torch.randn(start.shape, generator=g)
    )
    assert out.mean().item() == pytest.approx(MEAN, abs=0.01)
    assert out.std().item() == pytest.approx(DEVIATION, abs=0.015)
    fresh = torch.corrcoef(torch.stack([start.flatten(), out.flatten()]))[0, 1]
    assert abs(fresh.item()) < 0.05  # the start is forgotten, unlike along the ODE


def test_flow_euler_is_the_textbook_step() -> None:
    process = make_process("flow", "velocity")
    g = torch.Generator().manual_seed(2)
    weight = torch.randn(2, 2, generator=g)

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return (x @ weight).sin() + t.view(-1, 1, 1)

    expected = noise()
    for i in range(7):
        expected = expected - velocity(expected, torch.full((8,), 1 - i / 7)) / 7
    mine = sample("euler", process, velocity, noise(), 7)
    torch.testing.assert_close(mine, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
@pytest.mark.parametrize("kind", PROCESSES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("steps", [1, 2, 6])
def test_a_network_that_knows_the_sample_is_answered_with_it(
    name: str, kind: str, prediction: str, steps: int
) -> None:
    """Also at one step, where flow with alpha = 0 and the end with sigma = 0 meet."""
    process = make_process(kind, prediction)
    x0 = 0.4 * noise(seed=3).clamp(-2, 2)

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (c.view(-1, 1, 1) for c in process.coefficients(t))
        return process.target(x0, (x - alpha * x0) / sigma, t)

    out = sample(name, process, denoise, noise(), steps, source(1), within(1.0))
    # noise prediction at pure noise carries no sample: what follows the first step corrects it
    if not (prediction == "noise" and steps == 1):
        torch.testing.assert_close(out, x0, atol=2e-3, rtol=0)
    assert out.isfinite().all()


@pytest.mark.parametrize("name", sorted(SAMPLERS))
@pytest.mark.parametrize("kind", PROCESSES)
def test_bounds_hold_the_chunk(name: str, kind: str) -> None:
    process = make_process(kind, "sample")
    out = sample(name, process, lambda x, t: 5.0 * x.sign(), noise(), 6, source(1), within(0.7))
    assert out.abs().max() <= 0.7 + 1e-6
    free = sample(name, process, lambda x, t: 5.0 * x.sign(), noise(), 6, source(1))
    assert free.abs().max() > 4


@pytest.mark.parametrize(
    ("name", "calls"), [("ddpm", 6), ("ddim", 6), ("dpmpp2m", 6), ("euler", 6), ("heun", 11)]
)
def test_network_calls_and_fresh_draws_are_as_documented(name: str, calls: int) -> None:
    process = make_process("vp", "sample")
    seen: list[float] = []
    draws: list[int] = []

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        seen.append(t[0].item())
        return torch.zeros_like(x)

    def draw() -> Tensor:
        draws.append(1)
        return noise()

    sample(name, process, denoise, noise(), 6, draw)
    assert len(seen) == calls and seen[0] == 1.0 and min(seen) > 0
    assert len(draws) == (5 if name in STOCHASTIC else 0)


@pytest.mark.parametrize("name", ODE)
def test_rows_do_not_mix(name: str) -> None:
    process = make_process("flow", "velocity")
    x = noise()
    whole = sample(name, process, network(process, 0.3), x, 6)
    other = x.clone()
    other[1:] = 7.0
    assert torch.equal(sample(name, process, network(process, 0.3), other, 6)[0], whole[0])


@pytest.mark.parametrize("name", ODE)
@pytest.mark.parametrize("kind", PROCESSES)
def test_an_exported_sampler_agrees_at_another_batch_size(
    name: str, kind: str, tmp_path: Path
) -> None:
    pytest.importorskip("onnx", reason="needs: pip install alltrades[export]")
    runtime = pytest.importorskip("onnxruntime", reason="needs: pip install alltrades[export]")
    process = make_process(kind, "velocity")
    layer = torch.nn.Linear(2, 2)

    class Loop(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            def denoise(x: Tensor, t: Tensor) -> Tensor:
                return layer(x).sin() + t.view(-1, 1, 1)

            return sample(name, process, denoise, x, 5, bounds=within(0.9))

    loop, path = Loop(), str(tmp_path / "loop.onnx")
    loop.layer = layer
    torch.onnx.export(
        loop, (noise(2),), path, input_names=["x"], dynamic_axes={"x": {0: "batch"}}, dynamo=False
    )
    (out,) = runtime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(
        None, {"x": noise(5).numpy()}
    )
    torch.testing.assert_close(torch.from_numpy(out), loop(noise(5)).detach(), atol=1e-5, rtol=0)


def test_mistakes_are_user_errors() -> None:
    process = VPDiffusion("cosine", 100, "sample")
    denoise = network(process)
    with pytest.raises(UserError, match="101 sampling steps"):
        sample("ddim", process, denoise, noise(), 101)
    with pytest.raises(UserError, match="did you mean 'ddim'"):
        sample("dim", process, denoise, noise(), 10)
    with pytest.raises(UserError, match="fresh noise"):
        sample("ddpm", process, denoise, noise(), 10)
    with pytest.raises(UserError, match="at least 1"):
        sample("euler", process, denoise, noise(), 0)
