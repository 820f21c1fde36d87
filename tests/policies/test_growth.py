"""Policies that take further environments: what they did before stays, bit for bit."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from alltrades.data.actions import ActionSpec
from alltrades.data.fields import Field
from alltrades.data.interface import Interface
from alltrades.data.layout import Layout
from alltrades.data.steps import Steps
from alltrades.errors import UserError
from alltrades.policies.artifact import facts_of
from alltrades.policies.control.controller import Controller
from alltrades.policies.learning.batches import demonstration_data
from alltrades.policies.learning.initial import grow_policy
from alltrades.policies.learning.training import Trainer
from alltrades.policies.model.growth import grown
from alltrades.policies.model.loading import load_policy
from alltrades.policies.model.statistics import measure
from alltrades.policies.settings import PolicySettings, TrainSettings
from alltrades.system.reading import write_sealed
from tests.policies.fields import INTERFACES, observe, real_policy
from tests.policies.toys import SMALL, info, make_policy, make_steps

LARGER = Interface(
    "toy/larger",
    {
        "state": Field.state(9, dtype="float64"),
        "images.top": Field.image(8, 12),
        "images.front": Field.image(12, 16),
        "task": Field.text(),
        "force": Field.state(2),
    },
    ActionSpec((-3.0,) * 5, (3.0,) * 5),
    80,
    20.0,
)
SMALLER = Interface("toy/smaller", {"pose": Field.state(1)}, ActionSpec((-1.0,), (1.0,)), 80, 20.0)


def statistics(environment, rows=50, seed=0):
    rng = np.random.default_rng(seed)
    seen = {
        name: rng.normal(2.0, 3.0, (rows, *f.shape)).astype(f.dtype)
        if f.kind == "state"
        else rng.integers(0, 255, (rows, *f.shape)).astype(f.dtype)
        for name, f in environment.observation.items()
        if f.kind != "text"
    }
    return measure(environment, seen, rng.uniform(-1, 1, (rows, environment.action_dim)))


def with_more(policy, *environments):
    return grown(policy, environments, [statistics(e) for e in environments]).eval()


def inputs(policy, rows=6, seed=0):
    """A window of the policy's own environments in turn, some values far outside the data."""
    rng = np.random.default_rng(seed)
    environment = np.arange(rows, dtype=np.int64) % len(policy.environments)
    window = policy.layout.empty(rows, frames=policy.n_obs_steps)
    for row, index in enumerate(environment):
        own = policy.environments[index]
        frames = [observe(100 * seed + 10 * row + f, own) for f in range(policy.n_obs_steps)]
        stacked = {
            n: v if isinstance(v, str) else np.stack([f[n] for f in frames])
            for n, v in frames[0].items()
        }
        for key, value in policy.layout.pack(index, stacked, policy.n_obs_steps).items():
            window[key][row] = value
    shape = (rows, policy.draws, policy.horizon, policy.action_dim)
    noise = rng.standard_normal(shape, dtype=np.float32)
    for key in policy.layout.slices:
        window[key] *= 20
    dims = policy.layout.action_mask[environment][:, None, None]
    return window, environment, noise * dims


def acts_as(after, before):
    """Actions of both on the windows of `before`, in its sizes."""
    window, environment, noise = inputs(before)
    larger = after.layout.empty(len(environment), frames=after.n_obs_steps)
    for key, value in window.items():
        larger[key][..., : value.shape[-1]] = value
    wide = np.zeros((*noise.shape[:-1], after.action_dim), np.float32)
    wide[..., : before.action_dim] = noise
    got = after.act(larger, environment, wide)
    return got[..., : before.action_dim], before.act(window, environment, noise)


BACKBONES = ["mlp", "transformer", "unet1d"]


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("new", [LARGER, SMALLER], ids=["larger", "smaller"])
def test_actions_in_the_environments_before_are_the_same_bit_for_bit(backbone, new):
    before = real_policy(backbone=backbone)
    got, expected = acts_as(with_more(before, new), before)
    assert np.array_equal(got, expected) and np.abs(expected).max() > 0


@pytest.mark.parametrize(
    "settings",
    [
        {"process": "vp", "sampler": "ddpm"},
        {"sampler": "heun"},
        {"outcome_input": True, "guidance": 2.0},
    ],
)
def test_they_are_for_every_process_and_for_outcomes_as_inputs(settings):
    before = real_policy(**settings)
    got, expected = acts_as(with_more(before, LARGER), before)
    assert np.array_equal(got, expected)


@pytest.mark.parametrize("embedding", [0, 4])
def test_they_are_for_a_policy_of_a_single_environment(embedding):
    before = make_policy([info("a")], SMALL.model_copy(update={"embedding": embedding})).eval()
    for parameter in before.parameters():
        parameter.data.add_(0.05 * torch.ones_like(parameter))
    after = with_more(before, LARGER)
    got, expected = acts_as(after, before)
    assert np.array_equal(got, expected) and after.environment_index("toy/larger") == 1


def test_they_are_after_growing_twice_and_being_saved(tmp_path):
    before = real_policy()
    middle = with_more(before, SMALLER)
    after = with_more(middle, LARGER, replace(LARGER, id="toy/largest"))
    loaded = load_policy(after.save(tmp_path / "grown"))
    assert loaded.grown == (3, 4) and loaded.digest() == after.digest()
    for policy in (after, loaded):
        got, expected = acts_as(policy, before)
        assert np.array_equal(got, expected)
        got, expected = acts_as(policy, middle)
        assert np.array_equal(got, expected)


def test_the_graph_of_a_grown_policy_acts_as_it_does(tmp_path):
    pytest.importorskip("onnxruntime", reason='needs: pip install "alltrades[export]"')
    from alltrades.policies.onnx.export import export_onnx

    after = with_more(with_more(real_policy(), SMALLER), LARGER)
    with torch.no_grad():
        for parameter in after.parameters():
            parameter.add_(0.02)
    assert export_onnx(after, tmp_path / "grown.onnx", 2).max_error < 1e-5


def test_a_controller_acts_the_same_in_an_environment_before():
    before = make_policy([info("a"), info("b", 4, 3)])
    with torch.no_grad():
        for parameter in before.parameters():
            parameter.add_(0.05)
    after = with_more(before.eval(), LARGER)
    found = []
    for policy in (before, after):
        with Controller(policy, 1, batch=2) as controller:
            controller.reset(environment="a", seed=3)
            found.append([controller.act({"state": np.full(3, 0.1 * t)}) for t in range(5)])
    assert np.array_equal(*found)


def test_the_new_environment_is_learned_and_its_sizes_are_its_own():
    before = make_policy([info("a"), info("b")])
    steps = make_steps("new", obs_dim=5, action_dim=4, gain=0.9)
    after = grow_policy(before, steps, [info("new", 5, 4)], seed=0).train()
    train = TrainSettings(steps=300, batch=64, lr=3e-3, ema=0.9, precision="fp32")
    policy = Trainer(after, demonstration_data(steps, after), train, 0).fit().eval()
    window, rows = policy.layout.empty(64, frames=1), np.arange(64)
    window["state"][:, 0] = steps.observation["state"].take(rows)
    noise = np.zeros((64, policy.draws, 4, 4), np.float32)
    chunk = policy.act(window, np.full(64, 2), noise)[:, 0]
    wanted = steps.action.take(rows, 4)
    assert (np.abs(chunk - wanted).mean(0) < 0.5 * np.abs(wanted).mean(0)).all()


def test_quantities_that_a_known_environment_declares_keep_its_units():
    named = Field.state(3, names=("x", "y", "z"), units=("m",) * 3)
    box = ActionSpec((-1.0,) * 2, (1.0,) * 2, names=("vx", "vy"))
    known = Interface("a", {"state": named}, box, 50, 10.0)
    before = make_policy([known, info("b")])
    new = replace(known, id="new", observation={"state": named, "force": Field.state(1)})
    after = with_more(before, new).normalizer
    assert torch.equal(after.obs_mean[2, :3], before.normalizer.obs_mean[0])
    assert torch.equal(after.obs_scale[2, :3], before.normalizer.obs_scale[0])
    assert torch.equal(after.action_scale[2], before.normalizer.action_scale[0])
    assert after.obs_mean[2, 3] != 0  # its own
    other = replace(new, observation={"state": Field.state(3), "force": Field.state(1)})
    assert not torch.equal(
        with_more(before, other).normalizer.obs_mean[2, :3], after.obs_mean[2, :3]
    )


def test_actions_of_known_units_reach_as_far_as_the_new_demonstrations_do():
    box = ActionSpec((-9.0,) * 2, (9.0,) * 2, names=("vx", "vy"))
    known = Interface("a", {"state": Field.state(3)}, box, 50, 10.0)
    before = make_policy([known])
    new = replace(known, id="new")
    own = measure(new, {"state": np.eye(3)}, np.array([[-4.0, 0], [4.0, 1], [0, 0.5]]))
    after = grown(before, [new], [own])
    low, high = (
        after.normalizer.unaction(bound, torch.tensor([1]))
        for bound in after.normalizer.bounds(torch.tensor([1]))
    )
    assert low.min() <= -4.0 and high.max() >= 4.0


def test_fields_that_the_policy_was_told_to_see_are_those_of_the_new_environment_too():
    before = make_policy([info("a")], SMALL.model_copy(update={"observe": ("state",)}))
    after = with_more(before, LARGER.seeing(("state", "force")))
    assert after.settings.observe == ("state", "force")
    assert [list(e.observation) for e in after.environments] == [["state"], ["state", "force"]]


def test_pixels_of_images_of_the_same_shape_grow():
    box = ActionSpec((0.0,) * 64, (1.0,) * 64, image=(8, 8, 1))
    fields = {"image": Field.image(8, 8, 1)}
    settings = PolicySettings(
        backbone="unet2d", horizon=1, n_action_steps=1, width=8, depth=2, sampling_steps=2
    )
    before = make_images(settings, [Interface(i, fields, box, 5, 1.0) for i in "ab"])
    new = Interface("c", fields | {"level": Field.state(1)}, box, 5, 1.0)
    got, expected = acts_as(with_more(before, new), before)
    assert np.array_equal(got, expected)
    with pytest.raises(UserError, match="images of one shape.*it would see 'other@8x8x3'"):
        with_more(before, replace(new, observation=fields | {"other": Field.image(8, 8)}))
    with pytest.raises(UserError, match="the new one's actions are none"):
        with_more(before, replace(new, action=ActionSpec((0.0,), (1.0,))))


def make_images(settings, environments):
    from alltrades.policies.learning.initial import build_policy
    from alltrades.policies.model.normalizer import fit_normalizer

    normalizer = fit_normalizer(
        [statistics(e) for e in environments], Layout(environments), settings
    )
    policy = build_policy(settings, environments, normalizer, 0)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.02)
    return policy.eval()


def test_what_cannot_grow_says_so():
    with pytest.raises(UserError, match="knows 'toy/plain'"):
        with_more(real_policy(), INTERFACES[2])
    with pytest.raises(UserError, match="takes a preference"):
        with_more(real_policy(preference_input=True), LARGER)
    with pytest.raises(UserError, match="expected one kind of field for one name"):
        with_more(real_policy(), replace(LARGER, observation={"state": Field.text()}))


def test_an_artifact_whose_growths_cannot_be_is_refused(tmp_path):
    folder = with_more(real_policy(), SMALLER).save(tmp_path / "p")
    for grown_at in ([4], [2, 2], ["3"], 3):
        write_sealed(folder / "policy.json", facts_of(folder) | {"grown": grown_at})
        with pytest.raises(UserError, match="policy.json cannot be read"):
            load_policy(folder)


def test_windows_of_training_hold_both_kinds_of_environments():
    before = make_policy([info("a"), info("b")])
    new = make_steps("new", obs_dim=5, action_dim=4)
    after = grow_policy(before, new, [info("new", 5, 4)], seed=0)
    steps = Steps.concatenate([make_steps("a"), new])
    batch, _ = demonstration_data(steps, after).batch(16, 0, 0)
    assert batch.action.shape == (16, 4, 4) and set(batch.environment.tolist()) == {0, 2}
    loss = after.loss(batch, torch.Generator().manual_seed(0))
    assert torch.isfinite(loss).all()
