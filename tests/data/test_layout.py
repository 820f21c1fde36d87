"""Fields of several environments in arrays of one shape."""

import numpy as np
import pytest
import torch

from alltrades.data.actions import ActionSpec
from alltrades.data.fields import Field
from alltrades.data.interface import Interface
from alltrades.data.layout import Layout, pad
from alltrades.data.text import TEXT_DIM, text_features
from alltrades.errors import UserError

FIELDS = {
    "a": {
        "state": Field.state(3),
        "images.front": Field.image(4, 6),
        "instruction": Field.text(),
    },
    "b": {
        "gripper": Field.state(1),
        "images.front": Field.image(8, 6),
        "state": Field.state(5),
        "images.depth": Field.depth(4, 6),
    },
    "c": {"images.front": Field.image(4, 6)},
}
LAYOUT = Layout(
    [
        Interface(name, fields, ActionSpec.unknown(size))
        for (name, fields), size in zip(FIELDS.items(), (2, 1, 3))
    ]
)


def frames_of(name: str, count: int) -> dict:
    rng = np.random.default_rng(len(name))
    return {
        key: "lift the plate"
        if f.kind == "text"
        else rng.integers(1, 200, (count, *f.shape)).astype(f.dtype)
        for key, f in FIELDS[name].items()
    }


def test_equal_images_share_a_slot_and_others_do_not():
    assert list(LAYOUT.slots) == [
        "state",
        "images.front@4x6x3",
        "instruction",
        "gripper",
        "images.front@8x6x3",
        "images.depth@4x6x1-uint16",
    ]
    assert LAYOUT.slots["state"].shape == (5,) and LAYOUT.state_dim == 6
    assert LAYOUT.slots["instruction"].shape == (TEXT_DIM,)
    assert LAYOUT.present.sum(1).tolist() == [3, 4, 1]


@pytest.mark.parametrize("k", [0, 1, 2])
def test_what_is_packed_is_found_again_with_zeros_elsewhere(k):
    name = LAYOUT.ids[k]
    given = frames_of(name, 2)
    window = LAYOUT.pack(k, given, 2)
    assert {key: x.shape[1:] for key, x in window.items()} == {
        key: slot.shape for key, slot in LAYOUT.slots.items()
    }
    for key, x in window.items():
        slot = LAYOUT.slots[key]
        assert x.dtype == slot.dtype and len(x) == (2 if slot.frames else 1)
        if LAYOUT.fields[k].get(slot.field) != key:
            assert not x.any()
        elif slot.kind == "text":
            assert np.array_equal(x[0], text_features("lift the plate"))
        else:
            own = given[slot.field]
            assert np.array_equal(x[..., : own.shape[-1]], own)
            assert not x[..., own.shape[-1] :].any()


def test_masks_count_each_environments_dimensions():
    mask = LAYOUT.state_mask
    assert mask.sum(1).tolist() == [3, 6, 0]
    assert mask[0, LAYOUT.slices["state"]].tolist() == [True] * 3 + [False] * 2
    assert LAYOUT.action_mask.sum(1).tolist() == [2, 1, 3]


@pytest.mark.parametrize("of", [np.asarray, torch.as_tensor])
def test_a_window_becomes_that_of_a_smaller_layout_and_back(of):
    alone = Layout(LAYOUT.environments[:1])
    window = {key: of(x[None]) for key, x in LAYOUT.pack(0, frames_of("a", 2), 2).items()}
    small = alone.of_window(window)
    assert list(small) == ["state", "images.front@4x6x3", "instruction"]
    assert small["state"].shape == (1, 2, 3)
    assert (LAYOUT.slots["state"].fit(small["state"]) == window["state"]).all()
    y = of(np.arange(4.0).reshape(2, 2))
    packed = LAYOUT.pack_action(y)
    assert packed.shape == (2, 3) and (LAYOUT.action(0, packed) == y).all()
    assert LAYOUT.fit_action(of(np.zeros((2, 7)))).shape == (2, 3)


def test_one_name_cannot_be_a_state_here_and_an_image_there():
    for f in (Field.image(4, 4), Field.text()):
        other = Interface("x", {"state": f}, ActionSpec.unknown(1))
        with pytest.raises(UserError, match=f"'state' is {f} in 'x' and state in another"):
            Layout([*LAYOUT.environments, other])


def test_nothing_is_cut_off():
    with pytest.raises(ValueError, match="6 dimensions; expected at most 3"):
        LAYOUT.pack_action(np.zeros((2, 6)))
    x = np.zeros(5)
    assert pad(x, 5) is x


def test_an_unknown_environment_is_told_which_there_are():
    assert [LAYOUT.index(name) for name in ("a", "b")] == [0, 1]
    with pytest.raises(UserError, match="unknown environment 'bb'; expected one of a, b, c.*'b'"):
        LAYOUT.index("bb")
