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
from alltrades.policies.model.normalizer import Normalizer
from alltrades.policies.model.policy import load_policy
from alltrades.policies.model.stacked import StackedPolicy, stack_key

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
            p.add_(0.1 * torch.randn(p.shape, generator=g))
    return policy.eval()


def window_of(policy, rows=4, seed=0):
    rng = np.random.default_rng(seed)
    out = {}
    for key, empty in policy.layout.empty(rows, frames=policy.n_obs_steps).items():
        high = np.iinfo(empty.dtype).max if empty.dtype.kind == "u" else 1
        out[key] = torch.from_numpy((high * rng.random(empty.shape)).astype(empty.dtype))
    return out


@pytest.mark.parametrize("shape", [(8, 8, 1), (9, 31, 3), (64, 64, 3), (96, 128, 4), (480, 640, 3)])
@pytest.mark.parametrize("frames", [1, 2])
def test_images_of_any_size_give_a_vector_in_which_every_pixel_counts(shape, frames):
    encoder = make_encoder("convolution", slot(*shape), frames)
    x = torch.zeros(2, frames, *shape, requires_grad=True)
    y = encoder(x + 0.1 * torch.randn(x.shape))
    assert y.shape == (2, encoder.dim) and y.std() > 0
    (slope,) = torch.autograd.grad(y.square().sum(), x)
    assert (slope != 0).any(4).float().mean() > 0.95


@pytest.mark.parametrize("name", ["convolution", "pixels"])
def test_a_row_of_an_encoder_depends_on_its_own_image_only(name):
    encoder = make_encoder(name, slot(16, 24, 3), 2)
    x = torch.randn(5, 2, 16, 24, 3)
    other = torch.randn(5, 2, 16, 24, 3)
    other[2] = x[2]
    assert torch.equal(encoder(x)[2], encoder(other)[2])


def test_where_a_spot_is_changes_what_the_encoder_says():
    encoder = make_encoder("convolution", slot(32, 32, 1), 1)
    x = -torch.ones(2, 1, 32, 32, 1)
    x[0, :, 4:8, 4:8], x[1, :, 24:28, 24:28] = 1, 1
    a, b = encoder(x)
    assert (a - b).abs().max() > 1e-3


def test_pixels_are_channels_one_after_another():
    x = torch.arange(2 * 3 * 4 * 2, dtype=torch.float32).view(1, 2, 3, 4, 2)
    y = make_encoder("pixels", slot(3, 4, 2), 2)(x)
    assert torch.equal(y.view(2, 2, 3, 4), x[0].permute(0, 3, 1, 2))


def test_an_unknown_encoder_or_backbone_names_the_nearest():
    environment = Interface("a", {"image": Field.image(8, 8)}, BOX)
    for change, nearest in (("encoder", "convolution"), ("backbone", "unet1d")):
        settings = SMALL.model_copy(update={change: nearest[:-1]})
        with pytest.raises(UserError, match=f"did you mean '{nearest}'"):
            policy_of([environment], settings)


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
    settings = SMALL.model_copy(update={"encoder": "test mean", "backbone": "test tiny"})
    fields = {"image": Field.image(8, 8), "say": Field.text()}
    policy = policy_of([Interface("a", fields, BOX)], settings)
    assert isinstance(policy.backbone, Tiny) and policy.conditioner.dim == 6
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
