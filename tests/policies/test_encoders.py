"""Encoders of images and text, and what networks see of several fields."""

from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch

from alltrades.data.actions import ActionSpec
from alltrades.data.fields import Field
from alltrades.data.interface import Interface
from alltrades.data.layout import Layout, Slot
from alltrades.errors import UserError
from alltrades.policies.learning.initial import build_policy
from alltrades.policies.model.backbones import BACKBONES, ResidualMLP
from alltrades.policies.model.encoders import ENCODERS, Encoder, TextEncoder, make_encoder
from alltrades.policies.model.loading import load_policy
from alltrades.policies.model.normalizer import Normalizer
from alltrades.policies.model.stacked import StackedPolicy, stack_key
from alltrades.policies.settings import EncoderSettings

from .toys import SMALL

BOX = ActionSpec((-1.0,) * 2, (1.0,) * 2)


def slot(*shape):
    return Slot("image", "image", "image", shape, "uint8")


def policy_of(environments, settings=SMALL):
    seen = [e.seeing(settings.observe) for e in environments]
    normalizer = Normalizer(Layout(seen))
    normalizer.fitted.fill_(1)
    policy = build_policy(settings, environments, normalizer, 0)
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=g))
    return policy.eval()


def window_of(policy, rows=4, seed=0):
    rng = np.random.default_rng(seed)
    out = {}
    for key, empty in policy.layout.empty(rows, frames=policy.n_obs_steps).items():
        high = np.iinfo(empty.dtype).max if empty.dtype.kind == "u" else 1
        out[key] = torch.from_numpy((high * rng.random(empty.shape)).astype(empty.dtype))
    return out


@pytest.mark.parametrize("shape", [(8, 8, 1), (9, 31, 3), (64, 64, 3), (96, 128, 4), (480, 640, 3)])
def test_images_of_any_size_give_a_vector_in_which_every_pixel_counts(shape):
    encoder = make_encoder("convolution", slot(*shape))
    assert sum(p.numel() for p in encoder.parameters()) < 200_000
    x = torch.zeros(2, *shape, requires_grad=True)
    y = encoder(x + 0.1 * torch.randn(x.shape))
    assert y.shape == (2, encoder.dim) and y.std() > 0
    (slope,) = torch.autograd.grad(y.square().sum(), x)
    assert (slope != 0).any(3).float().mean() > 0.95


@pytest.mark.parametrize("name", ["convolution", "pixels", "resnet18"])
def test_a_row_of_an_encoder_depends_on_its_own_image_only(name):
    encoder = make_encoder(name, slot(16, 24, 3))
    x = torch.randn(5, 16, 24, 3)
    other = torch.randn(5, 16, 24, 3)
    other[2] = x[2]
    assert torch.equal(encoder(x)[2], encoder(other)[2])


def test_where_a_spot_is_changes_what_the_encoder_says():
    encoder = make_encoder("convolution", slot(32, 32, 1))
    x = -torch.ones(2, 32, 32, 1)
    x[0, 4:8, 4:8], x[1, 24:28, 24:28] = 1, 1
    a, b = encoder(x)
    assert (a - b).abs().max() > 1e-3


class Before(Encoder):
    """What the default was: maps of an eighth of the sides, a soft maximum, a projection."""

    dim = 64

    def __init__(self, of):
        super().__init__(of)
        layers, before = [], of.shape[2]
        for after in (32, 64, 64):
            conv = torch.nn.Conv2d(before, after, 3, 2, 1)
            layers += [conv, torch.nn.GroupNorm(8, after), torch.nn.SiLU()]
            before = after
        self.layers = torch.nn.Sequential(*layers)
        self.sharpness = torch.nn.Parameter(torch.ones(64))
        self.project = torch.nn.Linear(3 * 64, 64)

    def forward(self, frames):
        x = self.layers(frames.movedim(3, 1))
        share = (self.sharpness[:, None] * x.flatten(2)).softmax(-1).view_as(x)
        rows, columns = (torch.linspace(-1, 1, n) for n in x.shape[2:])
        return self.project(
            torch.cat((share.sum(3) @ rows, share.sum(2) @ columns, x.mean((2, 3))), -1)
        )


def reach_pictures(count, seed, side=64):
    """Pictures of a red hand and a green goal, and where these are in [-1, 1], (N, 4)."""
    g = torch.Generator().manual_seed(seed)
    where = 1.6 * torch.rand(count, 2, 2, generator=g) - 0.8
    grid = torch.linspace(-1, 1, side)
    frames = 0.6 * torch.rand(count, 1, 1, 3, generator=g).expand(-1, side, side, -1) - 1
    for k, colour in enumerate(((0.8, -0.6, -0.7), (-0.8, 0.7, -0.6))):
        y, x = where[:, k, 0, None, None], where[:, k, 1, None, None]
        near = ((grid[None, :, None] - y) ** 2 + (grid[None, None] - x) ** 2 < 0.02)[..., None]
        frames = torch.where(near, torch.tensor(colour), frames)
    return frames, where.flatten(1)


def position_error(encoder, steps=80):
    """Root mean squared error of positions that are regressed on pictures, on new pictures."""
    torch.manual_seed(0)
    pictures, where = reach_pictures(1000, 0)
    head = torch.nn.Linear(encoder.dim, 4)
    parameters = [*encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=3e-3)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * (1 - step / steps)
        rows = torch.randint(len(pictures), (32,))
        loss = (head(encoder(pictures[rows])) - where[rows]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    pictures, where = reach_pictures(200, 1)
    with torch.no_grad():
        return float((head(encoder(pictures)) - where).square().mean().sqrt())


def test_the_default_tells_positions_better_than_the_one_before_it():
    errors = {}
    for kind in (Before, type(make_encoder("convolution", slot(64, 64, 3)))):
        torch.manual_seed(1)
        errors[kind] = position_error(kind(slot(64, 64, 3)))
    before, now = errors.values()
    assert now < 0.7 * before and now < 0.03


def test_pixels_are_channels_one_after_another():
    x = torch.arange(2 * 3 * 4 * 2, dtype=torch.float32).view(2, 3, 4, 2)
    y = make_encoder("pixels", slot(3, 4, 2))(x)
    assert torch.equal(y.view(2, 2, 3, 4), x.permute(0, 3, 1, 2))


def test_an_unknown_encoder_or_backbone_names_the_nearest():
    environment = Interface("a", {"image": Field.image(8, 8)}, BOX)
    wrong = {"convolution": {"encoder": EncoderSettings(name="convolutio")}}
    wrong |= {"unet1d": {"backbone": "unet1"}}
    for nearest, change in wrong.items():
        with pytest.raises(UserError, match=f"did you mean '{nearest}'"):
            policy_of([environment], SMALL.model_copy(update=change))


class Mean(Encoder):
    kinds: ClassVar = ("image", "text")
    dim = 3

    def forward(self, frames):
        return frames.flatten(1).mean(1, keepdim=True).expand(-1, 3)


class Tiny(ResidualMLP):
    pass


def test_a_plugin_brings_an_encoder_and_a_backbone(tmp_path):
    ENCODERS.register("test mean", Mean)
    BACKBONES.register("test tiny", Tiny)
    encoder = EncoderSettings(name="test mean")
    settings = SMALL.model_copy(update={"encoder": encoder, "backbone": "test tiny"})
    fields = {"image": Field.image(8, 8), "say": Field.text()}
    policy = policy_of([Interface("a", fields, BOX)], settings)
    assert isinstance(policy.backbone, Tiny) and policy.conditioner.dim == 3 + 1 + 3
    policy.save(tmp_path)
    assert load_policy(tmp_path).digest() == policy.digest()
    plain = policy_of([Interface("a", fields, BOX)])
    assert isinstance(plain.conditioner.encoders["say"], TextEncoder)


ONE = Interface(
    "one", {"state": Field.state(3), "front": Field.image(12, 10), "say": Field.text()}, BOX
)
TWO = Interface(
    "two",
    {"state": Field.state(5), "front": Field.image(16, 16), "depth": Field.depth(8, 8)},
    ActionSpec((-1.0,), (1.0,)),
)
THREE = replace(ONE, id="three")


def test_environments_with_the_same_field_share_its_encoder_and_others_have_their_own():
    policy = policy_of([ONE, TWO, THREE])
    assert sorted(policy.conditioner.encoders) == [
        "depth@8x8x1-uint16",
        "front@12x10x3",
        "front@16x16x3",
        "say",
    ]
    assert policy.layout.state_dim == 5


@pytest.mark.parametrize("backbone", ["mlp", "unet1d", "transformer"])
def test_what_an_environment_does_not_have_does_not_matter_and_what_it_has_does(backbone):
    policy = policy_of([ONE, TWO], SMALL.model_copy(update={"backbone": backbone}))
    window, other = window_of(policy), window_of(policy, seed=1)
    noise = torch.randn(4, policy.horizon, policy.action_dim)
    for k, own in enumerate(policy.layout.fields):
        environment = torch.full((4,), k)
        want = policy.sample(window, environment, noise)
        strange = {**other, **{key: window[key] for key in own.values()}}
        strange["state"] = window["state"].clone()
        strange["state"][..., policy.environments[k].state_dim :] = 9.0
        assert torch.equal(policy.sample(strange, environment, noise), want)
        for key in own.values():
            moved = policy.sample({**window, key: other[key]}, environment, noise)
            assert (moved - want).abs().max() > 1e-6, key


def with_cameras(**encoder):
    fields = {"state": Field.state(3), "say": Field.text()}
    fields |= {"left": Field.image(20, 24), "right": Field.image(20, 24)}
    settings = {"encoder": EncoderSettings(**encoder), "n_obs_steps": 2}
    return policy_of([Interface("a", fields, BOX)], SMALL.model_copy(update=settings))


def condition_of(policy, window):
    return policy.condition(window, torch.zeros(len(window["state"]), dtype=torch.long))


def test_a_missing_frame_is_told_from_every_other_and_nothing_of_it_counts():
    policy = with_cameras()
    window = window_of(policy)
    key = "left@20x24x3"
    window[key][0, 0] = 0
    x = policy.normalizer.observation(window, torch.zeros(4, dtype=torch.long))
    shown = torch.ones(4, 2)
    shown[0, 0] = 0
    features = policy.conditioner.encoded(key, x[key].flatten(0, 1), shown.flatten())
    assert (features[0] == 0).all() and (features[1:, -1] == 1).all()
    assert features.shape == (8, policy.conditioner.encoders[key].dim + 1)
    dark = {**window, key: window[key].clone()}
    dark[key][0, 0] = 1  # a dark picture is none that is missing
    changed = (condition_of(policy, dark) - condition_of(policy, window)).abs().amax(1)
    assert changed[0] > 1e-3 and (changed[1:] == 0).all()
    environment = Interface("b", {"state": Field.state(3)}, BOX)
    two = policy_of([policy.environments[0], environment], policy.settings)
    for here in (torch.zeros(4), torch.ones(4)):
        blank = {k: v.clone() for k, v in window.items()}
        for k in policy.conditioner.cameras:
            blank[k].zero_()
        blank["say"] = 0 * window["say"]
        rows = two.condition(blank if here[0] == 0 else window, here.long())
        cameras = two.conditioner.sizes["left@20x24x3"] * 2 + two.conditioner.sizes["say"]
        start = 2 * 3
        if here[0] == 0:
            missing = rows[:, start : start + cameras]
        else:  # what an environment does not have is as what is missing
            lacking = rows[:, start : start + cameras]
    text = slice(0, two.conditioner.sizes["say"])
    torch.testing.assert_close(missing[:, text.stop :], lacking[:, text.stop :])


def test_cameras_of_one_shape_share_an_encoder_where_it_is_asked_for(tmp_path):
    own, shared = with_cameras(), with_cameras(shared=True)
    assert len(own.conditioner.encoders) == 3 and len(shared.conditioner.encoders) == 2
    assert shared.parameter_count() < own.parameter_count()
    window = window_of(shared)
    swapped = {**window, "left@20x24x3": window["right@20x24x3"]}
    features = {}
    for key in shared.conditioner.cameras:
        x = shared.normalizer.observation(swapped, torch.zeros(4, dtype=torch.long))[key]
        features[key] = shared.conditioner.encoded(key, x.flatten(0, 1), torch.ones(8))
    assert torch.equal(*features.values())
    shared.save(tmp_path)
    assert torch.equal(condition_of(load_policy(tmp_path), window), condition_of(shared, window))


def test_text_modulates_the_last_maps_of_every_camera_with_film():
    plain, film = with_cameras(), with_cameras(film=True)
    assert not plain.conditioner.films and len(film.conditioner.films) == 2
    window = window_of(film)
    other = {**window, "say": window["say"].flip(0)}
    start, stop = 2 * 3 + 64, 2 * 3 + 3 * 64  # both cameras, behind states and text
    for policy, modulated in ((plain, False), (film, True)):
        a, b = condition_of(policy, window), condition_of(policy, other)
        assert bool((a != b)[:, start:stop].any()) == modulated
    with torch.no_grad():
        for layer in film.conditioner.films.values():
            layer.weight.zero_()
            layer.bias.zero_()
    assert torch.equal(
        condition_of(film, window)[:, start:stop], condition_of(film, other)[:, start:stop]
    )


def test_a_frame_is_encoded_alone_whatever_the_history():
    policy = with_cameras()
    window = window_of(policy)
    window["left@20x24x3"][:, 0] = window["left@20x24x3"][:, 1]
    x = policy.normalizer.observation(window, torch.zeros(4, dtype=torch.long))["left@20x24x3"]
    found = policy.conditioner.encoded("left@20x24x3", x.flatten(0, 1), torch.ones(8))
    torch.testing.assert_close(*found.unflatten(0, (4, 2)).unbind(1))


def test_in_training_absent_slots_count_as_in_use():
    policy = policy_of([ONE, TWO])
    window, environment = window_of(policy), torch.tensor([0, 1, 1, 0])
    quiet = policy.condition(window, environment)
    torch.testing.assert_close(policy.train().condition(window, environment), quiet)
    alone = policy.condition(window, torch.zeros(4, dtype=torch.long))  # nobody has depth
    torch.testing.assert_close(alone[0], quiet[0])


def test_a_policy_sees_the_fields_that_it_observes(tmp_path):
    settings = SMALL.model_copy(update={"observe": ("state", "say")})
    policy = policy_of([ONE, TWO], settings)
    assert [list(e.observation) for e in policy.environments] == [["state", "say"], ["state"]]
    policy.save(tmp_path)
    again = load_policy(tmp_path)
    assert [e.observation for e in again.environments] == [
        e.observation for e in policy.environments
    ]
    window, here = window_of(policy_of([ONE, TWO])), torch.tensor([0, 1, 0, 1])
    noise = torch.randn(4, policy.horizon, policy.action_dim)
    assert torch.equal(again.sample(window, here, noise), policy.sample(window, here, noise))
    with pytest.raises(UserError, match="'two' has no such field"):
        policy_of([ONE, TWO], SMALL.model_copy(update={"observe": ("say",)}))


def test_saved_policies_of_all_kinds_of_fields_act_bit_for_bit_as_before(tmp_path):
    policy = policy_of([ONE, TWO], SMALL.model_copy(update={"n_obs_steps": 2}))
    policy.save(tmp_path)
    window, here = window_of(policy), torch.tensor([0, 1, 0, 1])
    noise = torch.randn(4, policy.horizon, policy.action_dim)
    want = policy.sample(window, here, noise)
    assert torch.equal(load_policy(tmp_path).sample(window, here, noise), want)


def test_policies_with_encoders_are_not_stacked_and_a_stack_of_one_computes_as_it():
    policy, same = policy_of([ONE]), policy_of([ONE])
    assert stack_key(policy) != stack_key(same)
    stack = StackedPolicy([policy]).eval()
    window, here = window_of(policy), torch.zeros(4, dtype=torch.long)
    torch.testing.assert_close(stack.condition(window, here), policy.condition(window, here))
    with torch.no_grad():
        for p in same.parameters():
            p.zero_()
    stack.copy_member(0, same)
    assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), same.parameters()))


def test_unet2d_restores_images_of_several_channels_from_those_that_it_sees():
    spec = ActionSpec((0.0,) * 108, (1.0,) * 108, image=(6, 6, 3))
    fields = {"image": Field.image(6, 6), "more": Field.image(12, 12), "say": Field.text()}
    settings = SMALL.model_copy(
        update={"backbone": "unet2d", "width": 16, "depth": 2, "horizon": 1, "n_action_steps": 1}
    )
    policy = policy_of([Interface("a", fields, spec)], settings)
    assert policy.conditioner.images == 3 and policy.backbone.frames == 3
    window, here = window_of(policy), torch.zeros(4, dtype=torch.long)
    condition = policy.condition(window, here)
    seen = policy.normalizer.observation(window, here)["image@6x6x3"][:, 0]
    assert torch.equal(condition[:, :108].view(4, 3, 6, 6), seen.permute(0, 3, 1, 2))
    with torch.no_grad():  # leave the mixture of what is seen, each channel in its place
        policy.backbone.head.weight.zero_()
        policy.backbone.head.bias.zero_()
        policy.backbone.keep.weight.copy_(torch.eye(3)[:, :, None, None])
    out = policy.backbone(torch.randn(4, 1, 108), torch.rand(4), condition)
    torch.testing.assert_close(out.view(4, 6, 6, 3), seen)
