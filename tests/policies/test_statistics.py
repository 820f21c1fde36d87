"""Units of every environment: scales, outliers, dimensions that stand still."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from alltrades.data.actions import ActionSpec
from alltrades.data.fields import Field
from alltrades.data.interface import Interface
from alltrades.data.layout import Layout
from alltrades.data.steps import Steps
from alltrades.policies.learning.initial import build_policy, make_normalizer
from alltrades.policies.learning.summary import statistics_lines
from alltrades.policies.model.normalizer import compressed, fit_normalizer
from alltrades.policies.model.statistics import _tails, measure
from alltrades.policies.settings import TrainSettings

from .toys import SMALL, fit_demonstrations, info, make_steps

HERE = torch.zeros(1, dtype=torch.long)
ONE = SMALL.model_copy(update={"horizon": 1, "n_action_steps": 1})


def fitted(observation, action, environment=None, settings=SMALL):
    """The normaliser of rows (N, D) and (N, A)."""
    size, actions = observation.shape[1], action.shape[1]
    environment = environment or Interface(
        "a", {"state": Field.state(size)}, ActionSpec.unknown(actions)
    )
    rows = observation.astype(np.float32), action.astype(np.float32)
    found = measure(environment, {"state": rows[0]}, rows[1])
    return fit_normalizer([found], Layout([environment]), settings)


def normalised(normalizer, observation, action):
    state = torch.from_numpy(observation.astype(np.float32))[:, None]
    chunk = torch.from_numpy(action.astype(np.float32))[:, None]
    here = torch.zeros(len(state), dtype=torch.long)
    seen = normalizer.observation({"state": state}, here)["state"][:, 0]
    return seen.numpy(), normalizer.action(chunk, here)[:, 0].numpy()


def rows(seed=0, count=1000, size=3):
    return np.random.default_rng(seed).normal(0.3, 1.0, (count, size))


@pytest.mark.parametrize("unit", [1e-12, 1e-3, 1e3, 1e12])
@pytest.mark.parametrize("kind", ["range", "standard"])
def test_data_in_other_units_is_normalised_to_the_same_numbers(unit, kind):
    settings = SMALL.model_copy(update={"action_normalizer": kind, "clip": 4.0})
    x, a = rows(), rows(1, size=4)
    x[:, 1], a[:, 1] = 0.7, -0.2  # still
    x[5, 0], a[6, 0] = 40.0, 90.0  # outliers
    want = normalised(fitted(x, a, settings=settings), x, a)
    got = normalised(fitted(unit * x, unit * a, settings=settings), unit * x, unit * a)
    for mine, theirs in zip(got, want):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)


def test_clean_data_is_scaled_by_its_deviation_and_its_range():
    x, a = rows(), np.random.default_rng(1).uniform(-3, 7, (1000, 2))
    normalizer = fitted(x, a)
    np.testing.assert_allclose(normalizer.obs_mean[0], x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(normalizer.obs_scale[0], x.std(0), rtol=1e-5)
    seen = normalised(normalizer, x, a)[1]
    np.testing.assert_allclose([seen.min(0), seen.max(0)], [[-1, -1], [1, 1]], atol=1e-6)
    assert normalizer.action_low.tolist() == [[-1, -1]]
    assert normalizer.action_high.tolist() == [[1, 1]]
    chunk = torch.from_numpy(a.astype(np.float32))[:, None]
    here = torch.zeros(len(a), dtype=torch.long)
    back = normalizer.unaction(normalizer.action(chunk, here), here)
    torch.testing.assert_close(back, chunk)


def test_each_environment_has_statistics_of_its_own():
    steps = Steps.concatenate([make_steps("a"), make_steps("b", obs_dim=5, gain=500.0)])
    normalizer = make_normalizer(steps, [info("a"), info("b", 5)], SMALL)
    alone = make_normalizer(steps, [info("b", 5)], SMALL)
    assert normalizer.action_scale[1, 0] > 900 * normalizer.action_scale[0, 0]
    for name in ("obs_mean", "obs_scale", "action_mean", "action_scale", "action_high"):
        assert torch.equal(getattr(normalizer, name)[1], getattr(alone, name)[0]), name


@pytest.mark.parametrize("value", [30.0, 1e6])
def test_a_single_outlier_sets_no_scale_and_real_actions_are_not_cut(value):
    x, a = rows(), np.random.default_rng(1).uniform(-1, 1, (1000, 2))
    clean = fitted(x, a)
    x[17, 0], a[40, 1] = value, -value
    normalizer = fitted(x, a)
    np.testing.assert_allclose(normalizer.obs_scale, clean.obs_scale, rtol=0.02)
    np.testing.assert_allclose(normalizer.action_scale, clean.action_scale, rtol=1e-3)
    low, high = normalizer.bounds(HERE)
    assert high.flatten().tolist() == [1, 1] and float(low[0, 0, 0]) == -1
    reached = normalizer.unaction(low, HERE)[0, 0, 1]
    assert float(reached) == pytest.approx(-value, rel=1e-3)


def test_a_gripper_that_closes_once_and_limits_that_are_reached_keep_their_range():
    a = np.random.default_rng(1).normal(0, 1e-3, (1000, 2))
    a[:, 0] = 0.0
    a[500, 0] = 1.0  # otherwise constant
    a[[3, 400, 800], 1] = 1.0  # again and again
    normalizer = fitted(rows(), a)
    assert normalizer.action_scale[0, 0] == 0.5
    assert normalizer.action_scale[0, 1] > 0.5


@pytest.mark.parametrize("count", [1, 2, 199, 2047, 2048, 30_000])
@pytest.mark.parametrize("kind", ["smooth", "few values", "rare", "periodic"])
def test_tails_are_those_of_all_rows_in_order(count, kind):
    rng = np.random.default_rng(0)
    sample = rng.standard_normal((3, count)).astype(np.float32)
    if kind == "few values":
        sample = sample.round()
    elif kind == "rare":
        sample = (rng.random((3, count)) < 0.003).astype(np.float32)
    elif kind == "periodic":  # the few rows that are looked at first tell nothing of the others
        sample[:, :: max(1, count // 512)] = 9.0
    ordered, rank = np.sort(sample, axis=1), int(np.ceil(0.005 * (count - 1)))
    below, above = _tails(sample)
    np.testing.assert_array_equal(below, ordered[:, rank])
    np.testing.assert_array_equal(above, ordered[:, count - 1 - rank])


def test_dimensions_are_still_relative_to_themselves():
    wobble = np.random.default_rng(0).normal(size=1000)
    x = np.stack([1e-9 * wobble, 1e6 + wobble, 5.0 + 1e-6 * wobble, wobble], axis=1)
    alone = [fitted(x[:, [d]], x[:, [d]]) for d in range(4)]
    still = [bool((n.action_low == 0).all()) for n in alone]
    assert still == [False, True, True, False]
    assert float(alone[2].obs_scale[0, 0]) == pytest.approx(5.0, rel=1e-3)
    both = fitted(x[:, [0, 3]], x[:, [0, 3]])
    assert (both.action_low == 0).tolist() == [[True, False]]  # 1e-9 beside 1 is rounding


def test_a_box_tells_that_a_dimension_stands_still():
    x = 1e-7 * rows(size=2)
    box = Interface(
        "a", {"state": Field.state(2, low=(-1, -3.4e38), high=(1, 3.4e38))}, ActionSpec.unknown(2)
    )
    normalizer = fitted(x, x, box)
    assert float(normalizer.obs_scale[0, 0]) > 2 * float(x[:, 0].std())
    assert float(normalizer.obs_scale[0, 1]) == pytest.approx(x[:, 1].std(), rel=1e-4)


@pytest.mark.parametrize("clip", [None, 3.0])
@pytest.mark.parametrize("sampler", ["euler", "heun", "ddpm"])
def test_still_actions_come_out_as_their_constant(clip, sampler):
    settings = ONE.model_copy(
        update={"clip": clip, "action_normalizer": "standard", "sampler": sampler}
    )
    steps = make_steps()
    action = steps.action.load()
    action[:, 1] = 0.123
    steps = replace(steps, action=action)
    policy = build_policy(settings, [info("a")], make_normalizer(steps, [info("a")], settings), 0)
    for p in policy.parameters():
        torch.nn.init.normal_(p, std=0.05, generator=torch.Generator().manual_seed(0))
    noise = np.random.default_rng(0).standard_normal((9, policy.draws, 1, 2), dtype=np.float32)
    chunk = policy.act({"state": np.ones((9, 1, 3), np.float32)}, np.zeros(9, np.int64), noise)
    assert (chunk[..., 1] == np.float32(0.123)).all() and chunk[..., 0].std() > 0


def test_observations_far_outside_the_data_grow_slowly_and_stay_in_order():
    x = torch.tensor([-1e38, -1e4, -9.0, -8.0, 0.5, 8.0, 8.01, 9.0, 1e4, 1e5, torch.inf])
    y = compressed(x)
    assert torch.equal(y[3:6], x[3:6]) and y.isfinite().all() and y.abs().max() < 40
    assert (y.diff() > 0).all()
    assert float(y[6]) == pytest.approx(8.01, abs=1e-4)


def test_images_are_scaled_by_their_type_their_bounds_or_their_data():
    fields = {
        "rgb": Field.image(4, 4),
        "unit": Field.image(4, 4, 1, dtype="float32"),
        "depth": Field.depth(4, 4),
    }
    environment = Interface("a", fields, ActionSpec.unknown(1))
    rng = np.random.default_rng(0)
    depth = rng.integers(400, 2000, (60, 4, 4, 1)).astype(np.uint16)
    depth[3, 1, 1] = 65535  # no echo
    observation = {
        "rgb": rng.integers(0, 256, (60, 4, 4, 3), dtype=np.uint8),
        "unit": rng.random((60, 4, 4, 1), dtype=np.float32),
        "depth": depth,
    }
    found = measure(environment, observation, rng.random((60, 1), dtype=np.float32))
    normalizer = fit_normalizer([found], Layout([environment]), SMALL)
    window = {
        "rgb@4x4x3": torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 2, 1, 1),
        "unit@4x4x1-float32": torch.tensor([0.0, 1.0]).view(1, 1, 2, 1, 1),
        "depth@4x4x1-uint16": torch.from_numpy(np.array([0, 2000], np.uint16)).view(1, 1, 2, 1, 1),
    }
    seen = normalizer.observation(window, HERE)
    assert seen["rgb@4x4x3"].flatten().tolist() == [-1, 1]
    assert seen["unit@4x4x1-float32"].flatten().tolist() == [-1, 1]
    assert seen["depth@4x4x1-uint16"].flatten().tolist() == pytest.approx([-1, 1], abs=0.05)


def test_pixels_of_an_action_share_the_scale_of_their_channel():
    spec = ActionSpec.unknown(2 * 2 * 3, image=(2, 2, 3))
    environment = Interface("a", {"state": Field.state(3)}, spec)
    a = np.random.default_rng(0).random((200, 2, 2, 3)) * [1, 10, 100]
    normalizer = fitted(rows(count=200), a.reshape(200, -1), environment)
    scale = normalizer.action_scale[0].view(4, 3)
    assert (scale == scale[0]).all()
    np.testing.assert_allclose(scale[0], [0.5, 5, 50], rtol=0.02)


@pytest.mark.parametrize("unit", [2.0**-10, 2.0**10])
def test_training_in_other_units_gives_the_same_bits(unit):
    train = TrainSettings(steps=30, batch=32)
    steps = make_steps()
    x, a = steps.observation["state"].load(), steps.action.load()
    box = ActionSpec((-unit, -unit), (unit, unit))
    scaled = replace(steps, observation={"state": unit * x}, action=unit * a)
    one = fit_demonstrations(steps, [info("a")], ONE, train).policy
    two = fit_demonstrations(scaled, [replace(info("a"), action=box)], ONE, train).policy
    for mine, theirs in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    window, noise = torch.rand(5, 1, 3), torch.randn(5, 1, 2)
    here = torch.zeros(5, dtype=torch.long)
    want = one.sample({"state": window}, here, noise)
    torch.testing.assert_close(two.sample({"state": unit * window}, here, noise), unit * want)


def test_one_network_learns_a_task_in_three_units_as_well_in_each():
    units = {"milli": 1e-3, "plain": 1.0, "kilo": 1e3}
    steps = []
    for k, (name, unit) in enumerate(units.items()):
        own = make_steps(name, episodes=30, seed=k)
        steps.append(replace(own, action=unit * own.action.load()))
    infos = [
        replace(info(name), action=ActionSpec((-unit,) * 2, (unit,) * 2))
        for name, unit in units.items()
    ]
    train = TrainSettings(steps=600, batch=192, lr=3e-3, ema=0.98)
    policy = fit_demonstrations(Steps.concatenate(steps), infos, ONE, train).policy
    window, noise = torch.rand(256, 1, 3) * 2 - 1, torch.randn(256, 1, 2)
    truth = 0.5 * window[:, 0, :2]
    for k, unit in enumerate(units.values()):
        got = policy.sample({"state": window}, torch.full((256,), k), noise)[:, 0] / unit
        assert (got - truth).square().mean() < 0.02 * truth.square().mean()


def test_what_is_printed_names_environment_field_dimension_and_unit():
    f = Field.state(3, names=("x", "y", "lid"), units=("m",) * 3)
    spec = ActionSpec((-1, -1), (1, 1), names=("dx", "dy"))
    environment = Interface("lab/arm", {"joints": f, "cam": Field.image(4, 4)}, spec)
    steps = make_steps("lab/arm", episodes=50)
    x, a = steps.observation["state"].load(), steps.action.load()
    x[7, 0], x[:, 2], a[:, 1] = 44.0, 0.25, 0.0
    cam = np.zeros((1000, 4, 4, 3), np.uint8)
    steps = replace(steps, observation={"joints": x, "cam": cam}, action=a)
    lines = statistics_lines(steps, [environment], SMALL)
    assert lines[0] == "lab/arm: 1,000 steps of 50 episodes"
    assert lines[1].startswith("  joints: 3 numbers, -1 to 0.999 m, scale 0.5")
    assert "; outliers: x (1 beyond -1 to 0.99" in lines[1] and ", from -1 to 44)" in lines[1]
    assert lines[1].endswith("; 1 of 3 still: lid at 0.25")
    assert lines[2] == "  cam: image of 4 x 4 x 3 uint8, 0 to 255 as -1 to 1"
    assert lines[3].startswith("  action: 2 numbers, -0.5 to 0.499, scale 0.499")
    assert lines[3].endswith("; 1 of 2 still: dy at 0") and len(lines) == 4
