"""Noising processes against diffusers' schedules and against the definitions they invert."""

from __future__ import annotations

import copy

import pytest
import torch

from alltrades.errors import UserError
from alltrades.policies.model.processes import PREDICTIONS, PROCESSES, VPDiffusion, make_process

diffusers = pytest.importorskip("diffusers", reason="needs: pip install alltrades[test]")


def draw(seed: int = 0, batch: int = 64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return (
        torch.randn(batch, 5, 3, generator=g),
        torch.randn(batch, 5, 3, generator=g),
        torch.rand(batch, generator=g),
    )


@pytest.mark.parametrize("steps", [10, 100, 1000])
def test_cosine_schedule_is_the_one_of_diffusers(steps: int) -> None:
    theirs = diffusers.DDPMScheduler(steps, beta_schedule="squaredcos_cap_v2").betas.double()
    alpha, _ = VPDiffusion("cosine", steps).coefficients(torch.arange(1, steps + 1) / steps)
    torch.testing.assert_close(
        alpha.double().square(), torch.cumprod(1 - theirs, 0), rtol=1e-4, atol=1e-9
    )


def test_linear_schedule_is_the_one_of_diffusers_and_ends_in_noise_at_any_length() -> None:
    theirs = diffusers.DDPMScheduler(1000, beta_schedule="linear").betas.double()
    alpha, _ = VPDiffusion("linear", 1000).coefficients(torch.arange(1, 1001) / 1000)
    torch.testing.assert_close(
        alpha.double().square(), torch.cumprod(1 - theirs, 0), rtol=1e-4, atol=1e-9
    )
    for steps in (10, 50, 100):
        alpha, _ = VPDiffusion("linear", steps).coefficients(torch.ones(1))
        assert alpha < 0.01


@pytest.mark.parametrize("steps", [7, 100, 1000])
def test_times_find_their_own_step_in_float32(steps: int) -> None:
    process = VPDiffusion("cosine", steps)
    t = process.draw_time((torch.arange(steps) + 0.5) / steps)
    alpha, sigma = process.coefficients(t)
    exact = [process.coefficients_at((k + 1) / steps) for k in range(steps)]
    torch.testing.assert_close(alpha, torch.tensor([a for a, _ in exact]), rtol=0, atol=1e-7)
    torch.testing.assert_close(sigma, torch.tensor([s for _, s in exact]), rtol=0, atol=1e-7)
    assert (alpha[1:] < alpha[:-1]).all()


@pytest.mark.parametrize("name", PROCESSES)
def test_drawn_times_cover_training_evenly_and_stay_inside(name: str) -> None:
    process = make_process(name, "sample", steps=10)
    uniform = torch.linspace(0, 1 - 2**-24, 10_000)
    t = process.draw_time(uniform)
    assert t.min() >= 0 and t.max() <= 1 and t.dtype == torch.float32
    if name == "vp":
        values, counts = t.unique(return_counts=True)
        assert len(values) == 10 and values[0] > 0 and counts.min() > 990
    else:
        assert torch.equal(t, uniform)


@pytest.mark.parametrize("name", PROCESSES)
def test_time_runs_from_data_to_noise(name: str) -> None:
    process = make_process(name, "velocity")
    assert process.coefficients_at(0.0) == (1.0, 0.0)
    alpha, sigma = process.coefficients_at(1.0)
    assert alpha < 1e-3 and abs(sigma - 1) < 1e-6
    assert torch.equal(process.coefficients(torch.zeros(2))[1], torch.zeros(2))


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_target_leads_back_to_sample_noise_and_velocity(name: str, prediction: str) -> None:
    process = make_process(name, prediction)
    x0, eps, uniform = draw()
    t = process.draw_time(0.05 + 0.9 * uniform)
    x_t, target = process.noise(x0, eps, t), process.target(x0, eps, t)
    velocity = make_process(name, "velocity").target(x0, eps, t)
    torch.testing.assert_close(process.to_sample(target, x_t, t), x0, atol=1e-4, rtol=0)
    torch.testing.assert_close(
        process.convert(target, prediction, "noise", x_t, t), eps, atol=1e-4, rtol=0
    )
    torch.testing.assert_close(
        process.convert(target, prediction, "velocity", x_t, t), velocity, atol=1e-4, rtol=0
    )
    for to in PREDICTIONS:
        there = process.convert(target, prediction, to, x_t, t)
        torch.testing.assert_close(
            process.convert(there, to, prediction, x_t, t), target, atol=1e-4, rtol=0
        )


def test_flow_velocity_is_the_derivative_of_the_path() -> None:
    process = make_process("flow", "velocity")
    x0, eps, t = (v.double() for v in draw())
    h = 1e-6
    slope = (process.noise(x0, eps, t + h) - process.noise(x0, eps, t - h)) / (2 * h)
    torch.testing.assert_close(process.target(x0, eps, t), slope, atol=1e-8, rtol=0)


def test_vp_velocity_and_noised_sample_are_those_of_diffusers() -> None:
    process = VPDiffusion("cosine", 100, "velocity")
    scheduler = diffusers.DDPMScheduler(100, beta_schedule="squaredcos_cap_v2")
    x0, eps, uniform = draw()
    t = process.draw_time(uniform)
    k = (t * 100).round().long() - 1
    torch.testing.assert_close(
        process.noise(x0, eps, t), scheduler.add_noise(x0, eps, k), atol=2e-6, rtol=0
    )
    torch.testing.assert_close(
        process.target(x0, eps, t), scheduler.get_velocity(x0, eps, k), atol=2e-6, rtol=0
    )


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("end", [0.0, 1.0])
def test_conversions_stay_finite_at_both_ends_of_time(
    name: str, prediction: str, end: float
) -> None:
    process = make_process(name, prediction)
    x, value, _ = draw()
    for to in PREDICTIONS:
        as_float = process.convert(value, prediction, to, x, end)
        as_tensor = process.convert(value, prediction, to, x, torch.full((len(x),), end))
        assert as_float.isfinite().all()
        torch.testing.assert_close(as_float, as_tensor, rtol=1e-4, atol=1e-6)


def test_a_process_copies_with_its_policy_and_keeps_float32() -> None:
    process = copy.deepcopy(VPDiffusion("cosine", 50, "sample"))
    x0, eps, uniform = draw()
    assert process.noise(x0, eps, process.draw_time(uniform)).dtype == torch.float32


def test_grids_fall_from_one_to_zero_and_more_steps_than_training_are_refused() -> None:
    process = VPDiffusion("cosine", 100)
    assert process.grid(4) == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert len(set(process.grid(100))) == 101
    assert make_process("flow", "sample").grid(3) == pytest.approx([1.0, 2 / 3, 1 / 3, 0.0])
    with pytest.raises(UserError, match="101 sampling steps.*at most 100"):
        process.grid(101)


def test_unknown_names_are_user_errors() -> None:
    with pytest.raises(UserError, match="did you mean 'flow'"):
        make_process("flows", "sample")
    with pytest.raises(UserError, match="prediction 'epsilon'"):
        make_process("vp", "epsilon")
    with pytest.raises(UserError, match="did you mean 'cosine'"):
        make_process("vp", "noise", schedule="cosin")
    with pytest.raises(UserError, match="at least 2"):
        make_process("vp", "noise", steps=1)
