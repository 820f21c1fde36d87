"""From spaces to fields and actions, and values back and forth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import (
    Box,
    Dict,
    Discrete,
    MultiBinary,
    MultiDiscrete,
    Sequence,
    Space,
    Text,
    Tuple,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from alltrades.data.actions import ActionSpec
from alltrades.data.fields import Field
from alltrades.data.interface import Interface
from alltrades.envs.spaces import action_of, fields_of, read, writer
from alltrades.errors import UserError

PIXEL_SHAPE = st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3, 4])
PIXELS = {"low": 0, "high": 255, "dtype": np.uint8}


def within(low: tuple[float, ...], high: tuple[float, ...]) -> Field:
    return Field.state(len(low), low=low, high=high)


def interface(fields: dict[str, Field]) -> Interface:
    return Interface("mine/toy", fields, ActionSpec([-1], [1]))


@pytest.mark.parametrize(
    "space, expected",
    [
        (Box(-np.inf, np.inf, (3,)), {"state": Field.state(3)}),
        (Box(-1, 2, (2, 2)), {"state": within((-1,) * 4, (2,) * 4)}),
        (Box(-1, 1, ()), {"state": within((-1,), (1,))}),
        (
            Box(np.array([-np.inf, 0.0]), np.array([np.inf, np.inf]), dtype=np.float64),
            {"state": Field.state(2, "float64", low=(-np.inf, 0.0))},
        ),
        (
            Box(-9, 9, (2,), np.int64),
            {"state": Field.state(2, "float64", low=(-9, -9), high=(9, 9))},
        ),
        (Box(-9, 9, (2,), np.int16), {"state": within((-9, -9), (9, 9))}),
        (  # as CartPole declares that there is no bound
            Box(-np.finfo(np.float32).max, np.finfo(np.float32).max, (2,)),
            {"state": Field.state(2)},
        ),
        (Box(**PIXELS, shape=(128,)), {"state": within((0,) * 128, (255,) * 128)}),
        (Box(**PIXELS, shape=(9, 7, 3)), {"image": Field.image(9, 7)}),
        (Box(**PIXELS, shape=(9, 7, 4)), {"image": Field.image(9, 7, 4)}),
        (Box(**PIXELS, shape=(9, 7)), {"image": Field.image(9, 7, 1)}),
        (Box(0, 65535, (9, 7), np.uint16), {"image": Field.depth(9, 7)}),
        (Box(0, 65535, (9, 7, 1), np.uint16), {"image": Field.depth(9, 7)}),
        (Discrete(4, start=2), {"state": within((2,), (5,))}),
        (MultiDiscrete([[2, 3], [4, 5]]), {"state": within((0,) * 4, (1, 2, 3, 4))}),
        (MultiBinary(3), {"state": within((0,) * 3, (1,) * 3)}),
        (Text(5), {"instruction": Field.text()}),
        (
            Dict(
                {
                    "observation.state": Box(-np.inf, np.inf, (3,)),
                    "images/front": Box(**PIXELS, shape=(4, 5, 3)),
                    "images.wrist": Dict({"left": Box(**PIXELS, shape=(6, 5, 1))}),
                    "task": Text(9),
                }
            ),
            {
                "state": Field.state(3),
                "images.front": Field.image(4, 5),
                "images.wrist.left": Field.image(6, 5, 1),
                "task": Field.text(),
            },
        ),
    ],
)  # fmt: skip
def test_spaces_are_fields(space: Space[Any], expected: dict[str, Field]) -> None:
    assert fields_of(space, "toy") == expected


@pytest.mark.parametrize(
    "space, message",
    [
        (Box(**PIXELS, shape=(3, 64, 48)), r"channels first.*transpose it"),
        (Box(**PIXELS, shape=(64, 48, 12)), r"shape \(64, 48, 12\) of uint8; expected an image"),
        (Box(**PIXELS, shape=(4, 64, 48, 3)), r"shape \(4, 64, 48, 3\)"),
        (Box(0, 1, (64, 48, 3)), r"an image or 9216 numbers; expected images as uint8"),
        (Box(0, 1, (0,)), "expected at least one number"),
        (Tuple([Discrete(2), Discrete(3)]), "is Tuple; expected Box"),
        (Dict({"a": Dict({"b": Sequence(Box(-1, 1))})}), "'a.b' is Sequence"),
        (Dict({"hand pos": Box(-1, 1)}), "'hand pos' as a name; expected names of letters"),
        (Dict({"a.b": Box(-1, 1), "a": Dict({"b": Box(-1, 1)})}), "'a.b' twice"),
        (Dict({"": Box(-1, 1)}), "as a name"),
    ],
)
def test_spaces_that_cannot_be_fields_are_refused_in_one_line(space: Any, message: str) -> None:
    with pytest.raises(UserError, match=f"^toy: observation.*{message}") as error:
        fields_of(space, "toy")
    assert "\n" not in str(error.value)


def test_declared_fields_replace_derived_ones_and_keep_bounds_that_they_do_not_give() -> None:
    space = Dict({"state": Box(-1, 2, (2,)), "map": Box(0, 1, (9, 9, 3)), "note": Text(3)})
    named = Field.state(2, names=("x", "y"), units=("m", "m"))
    found = fields_of(space, "toy", {"state": named, "map": Field.image(9, 9, dtype="float32")})
    assert found["state"].names == ("x", "y") and found["state"].low == (-1.0, -1.0)
    assert found["map"] == Field.image(9, 9, dtype="float32") and found["note"] == Field.text()
    board = Box(**PIXELS, shape=(3, 3))  # a board, no picture
    assert list(fields_of(board, "toy", {"board": Field.state(9)})) == ["board"]


@pytest.mark.parametrize(
    "given, message",
    [
        ({"stat": Field.state(2)}, "a field 'stat' is given.*none, did you mean 'state'"),
        ({"state": Field.state(3)}, "'state' is given as state of 3 numbers; its space is Box"),
        ({"state": Field.text()}, "'state' is given as text"),
        ({"eye": Field.image(4, 4, dtype="float32")}, "as image of 4 x 4 x 3 float32"),
        ({"eye": Field.image(4, 4, 1)}, "'eye' is given as image of 4 x 4 x 1 uint8"),
    ],
)  # fmt: skip
def test_declared_fields_that_do_not_fit_are_refused(given: dict, message: str) -> None:
    space = Dict({"state": Box(-1, 2, (2,)), "eye": Box(**PIXELS, shape=(4, 4, 3))})
    with pytest.raises(UserError, match=message):
        fields_of(space, "toy", given)


def test_values_of_any_numeric_type_and_shape_become_the_state() -> None:
    wanted = interface({"state": Field.state(4)})
    for value in (
        np.arange(4.0),
        np.arange(4).reshape(2, 2),
        [0, 1, 2, 3],
        [[0.0, 1.0], [2.0, 3.0]],
        np.arange(4, dtype=np.uint8),
        {"state": np.arange(4, dtype=np.int8), "further": None},
        {"observation/state": (0, 1, 2, 3)},
    ):
        state = read(value, wanted)["state"]
        assert state.dtype == np.float32 and state.tolist() == [0, 1, 2, 3]
    assert read(True, interface({"state": Field.state(1)}))["state"].tolist() == [1.0]


def test_fields_read_are_copies_in_their_types() -> None:
    fields = {"state": Field.state(2), "eye": Field.image(3, 2, 1), "depth": Field.depth(3, 2)}
    given = {
        "state": np.zeros(2, np.float32),
        "eye": np.zeros((3, 2), np.uint8),
        "depth": np.zeros((3, 2, 1), np.uint16),
    }
    seen = read(given, interface(fields))
    for value in given.values():
        value += 1
    assert {name: (v.shape, v.dtype.name) for name, v in seen.items()} == {
        "state": ((2,), "float32"),
        "eye": ((3, 2, 1), "uint8"),
        "depth": ((3, 2, 1), "uint16"),
    }
    assert not any(v.any() for v in seen.values())
    alone = np.zeros(2, np.float32)
    kept = read(alone, interface({"state": Field.state(2)}))["state"]
    alone += 1
    assert not kept.any()


@pytest.mark.parametrize("said", ["öffne", "打开", "", "a\nb", np.str_("é"), np.array("x")])
def test_any_text_is_read_as_a_python_string(said: Any) -> None:
    seen = read({"instruction": said}, interface({"instruction": Field.text()}))
    assert type(seen["instruction"]) is str and seen["instruction"] == str(said)


@pytest.mark.parametrize(
    "value, message",
    [
        ({"eye": np.zeros((3, 2, 3), np.uint8)}, "has no 'state'; it has eye; expected"),
        ({"state": [1.0], "eye": np.zeros((2, 3, 3), np.uint8)}, r"'eye'.*shape \(2, 3, 3\)"),
        ({"state": [1.0], "eye": np.zeros((3, 2, 3))}, "'eye'.*dtype float64; expected uint8"),
        ({"state": ["up"], "eye": np.zeros((3, 2, 3), np.uint8)}, "'state'.*expected numbers"),
        ({"state": [np.inf], "eye": np.zeros((3, 2, 3), np.uint8)}, "'state'.*not finite"),
        (np.zeros(1), "is a ndarray; expected its fields by name"),
    ],
)
def test_values_that_are_not_the_fields_are_refused(value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(value, interface({"state": Field.state(1), "eye": Field.image(3, 2)}))


def test_bounded_boxes_are_the_limits_of_actions() -> None:
    assert action_of(Box(-2, 3, (2, 2)), None, "toy") == ActionSpec([-2] * 4, [3] * 4)
    own = ActionSpec([-1, -1], [1, 1], names=("x", "y"))
    assert action_of(Box(-np.inf, np.inf, (2,)), own, "toy") is own
    assert action_of(Discrete(3), ActionSpec([0], [2]), "toy").high == (2.0,)


@pytest.mark.parametrize(
    "space, given, message",
    [
        (Box(-np.inf, 1, (2,)), None, "unbounded actions.*action=ActionSpec.*2 numbers each$"),
        (Discrete(3), None, r"integer actions \(Discrete\(3\)\).*rounded"),
        (MultiDiscrete([2, 3]), None, "integer actions"),
        (MultiBinary(2), None, "integer actions"),
        (Box(0, 4, (1,), np.int64), None, r"integer actions \(Box of shape \(1,\) of int64\)"),
        (Dict({"arm": Box(-1, 1)}), None, "actions Dict; expected a Box of numbers"),
        (Text(3), ActionSpec([0], [1]), "actions Text"),
        (Box(-1, 1, (2,)), ActionSpec([0], [1]), "was given 1 numbers.*low and high of 2 numbers"),
        (Box(-1, 1, (2,)), ActionSpec.unknown(2), "no bounds; expected low and high"),
        (Discrete(3), ActionSpec([-1], [1]), r"the box \[-1.0\] to \[1.0\]; expected one inside"),
    ],
)
def test_actions_that_are_no_bounded_numbers_are_refused(
    space: Any, given: ActionSpec | None, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        action_of(space, given, "toy")


@pytest.mark.parametrize(
    "space, action, expected",
    [
        (Discrete(5, start=1), [2.4], 2),
        (MultiDiscrete([3, 3]), [0.6, 1.5], np.array([1, 2])),
        (MultiBinary(2), [0.2, 0.8], np.array([0, 1], np.int8)),
        (Box(0, 4, (1, 2), np.int32), [3.6, 0.4], np.array([[4, 0]], np.int32)),
        (Box(-1, 1, (2, 1), np.float64), [0.5, -0.5], np.array([[0.5], [-0.5]])),
    ],
)
def test_an_action_becomes_a_value_of_the_space(space: Any, action: list, expected: Any) -> None:
    write = writer(space, len(action))
    assert write is not None
    value = write(np.array(action, np.float32))
    assert space.contains(value)
    np.testing.assert_array_equal(value, expected)


PARTS = st.one_of(
    st.builds(
        lambda shape, dtype: Box(0, 9, shape, dtype),
        st.lists(st.integers(1, 4), max_size=2).map(tuple),
        st.sampled_from([np.float32, np.float64, np.int8, np.int64, np.uint8, np.uint16]),
    ),
    st.builds(lambda h, w, c: Box(0, 255, (h, w, c), np.uint8), *PIXEL_SHAPE),
    st.builds(lambda n, start: Discrete(n, start=start), st.integers(1, 9), st.integers(-9, 9)),
    st.builds(MultiDiscrete, st.lists(st.integers(1, 9), min_size=1, max_size=3)),
    st.builds(MultiBinary, st.integers(1, 4)),
    st.builds(Text, st.integers(1, 9)),
)
NAMES = st.text("abcXYZ019_-", min_size=1, max_size=5)
TREES = st.recursive(
    PARTS,
    lambda parts: st.dictionaries(NAMES, parts, min_size=1, max_size=3).map(Dict),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(TREES, st.integers(0, 2**31))
def test_what_a_space_can_be_is_read_as_its_fields(space: Space[Any], seed: int) -> None:
    space.seed(seed)
    described = interface(fields_of(space, "toy"))
    values = read(space.sample(), described)
    assert values.keys() == described.observation.keys()
    for name, value in values.items():
        field = described.observation[name]
        if isinstance(value, str):
            assert field.kind == "text"
            continue
        assert value.shape == field.shape and value.dtype.name == field.dtype
        if field.kind == "state":
            low = -np.inf if field.low is None else np.array(field.low)
            high = np.inf if field.high is None else np.array(field.high)
            assert (low <= value).all() and (value <= high).all()


def test_an_action_that_is_a_value_already_is_passed_on() -> None:
    assert writer(Box(-1, 1, (2,)), 2) is None and writer(None, 2) is None
