"""What a policy knows of an environment: it survives JSON, checks observations, and limits make
sense.
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from alltrades.data.actions import ActionSpec
from alltrades.data.fields import Field
from alltrades.data.interface import Interface, NotFinite
from alltrades.errors import UserError

BOX = ActionSpec((-1, -1), (1, 1))
PLAIN = Interface("a", {"state": Field.state(3)}, BOX, 50)
RICH = Interface(
    "rich",
    {
        "state": Field.state(2, names=("x", "y"), units=("m", "m"), low=(-np.inf, 0.0)),
        "images.front": Field.image(4, 6),
        "images.depth": Field.depth(4, 6),
        "images.float": Field.image(2, 2, dtype="float32"),
        "instruction": Field.text(),
    },
    ActionSpec.unknown(2, names=("left", "right"), units=("N", "N")),
)


def test_json_keeps_every_field_without_infinities() -> None:
    action = ActionSpec((-np.inf, -1.0), (1.0, np.inf), (0.5, np.inf), stop=(0.0, None))
    whole = Interface("b", {"state": Field.state(4)}, action, 50, 20.0, 3)
    for value in (whole, PLAIN, RICH):
        text = json.dumps(value.to_json(), allow_nan=False)
        found = Interface.from_json(json.loads(text))
        assert found == value and list(found.observation) == list(value.observation)


def test_the_digest_tells_what_a_policy_depends_on_and_not_the_time_limit() -> None:
    digests = {
        replace(PLAIN, **change).digest()
        for change in (
            {},
            {"id": "b"},
            {"observation": {"state": Field.state(4)}},
            {"observation": {"other": Field.state(3)}},
            {"action": ActionSpec.unknown(2)},
            {"action": replace(BOX, high=(1, 2))},
            {"control_hz": 5.0},
            {"version": 2},
        )
    }
    assert len(digests) == 8
    assert replace(PLAIN, max_steps=9).digest() == PLAIN.digest()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"low": (2.0, 0.0)}, "low <= high"),
        ({"low": (np.nan, 0.0)}, "low <= high"),
        ({"high": (1.0,)}, "one length"),
        ({"rate": (0.1,)}, "rate .* expected 2 positive"),
        ({"acceleration": (0.1, 0.0)}, "acceleration .* expected 2 positive"),
        ({"stop": (0.0, 3.0)}, "stop .* inside the box"),
        ({"stop": (0.0, 0.0, None)}, "stop .* expected 2 entries"),
    ],
)
def test_limits_that_make_no_sense_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(BOX, **change)


def test_limits_per_second_stay_at_another_rate() -> None:
    found = replace(BOX, rate=(0.1, 0.2), acceleration=(0.1, 0.2)).at_rate(10.0, 20.0)
    np.testing.assert_allclose(found.rate or (), (0.05, 0.1))
    np.testing.assert_allclose(found.acceleration or (), (0.025, 0.05))


def test_a_box_that_shuts_out_the_stop_action_is_refused() -> None:
    with pytest.raises(UserError, match="file: the stop action .* outside the box"):
        replace(BOX, stop=(0.0, None)).tightened({"low": 0.5}, "file")
    assert replace(BOX, stop=(None, 0.5)).tightened({"low": 0.5}, "file").stop == (None, 0.5)


def test_an_observation_becomes_its_fields_in_copies_of_their_dtypes() -> None:
    given = np.arange(3)
    found = PLAIN.check(given)["state"]
    given[0] = 9
    assert isinstance(found, np.ndarray) and found.dtype == np.float32
    assert found.tolist() == [0.0, 1.0, 2.0]
    front = np.zeros((4, 6, 3), np.uint8)
    seen = RICH.check(observation() | {"images.front": front, "further": 3})
    front[:] = 1
    assert list(seen) == list(RICH.observation) and not seen["images.front"].any()  # type: ignore
    assert {k: getattr(v, "dtype", str) for k, v in seen.items()} == {
        "state": np.float32,
        "images.front": np.uint8,
        "images.depth": np.uint16,
        "images.float": np.float32,
        "instruction": str,
    }
    assert seen["images.depth"].shape == (4, 6, 1)  # type: ignore


def observation() -> dict:
    """One of RICH; depth without its channel."""
    return {
        "state": [0, 1],
        "images.front": np.zeros((4, 6, 3), np.uint8),
        "images.depth": np.ones((4, 6), np.uint16),
        "images.float": np.zeros((2, 2, 3)),
        "instruction": "lift",
    }


@pytest.mark.parametrize(
    "rename",
    [
        {},
        {"images.front": "images/front"},
        {"images.front": "observation/images/front", "state": "observation/state"},
        {"images.front": "observation.images.front", "instruction": "prompt"},
        {"instruction": "task"},
        {"instruction": "observation/instruction"},
    ],
)
def test_dots_and_slashes_are_the_same_and_prompts_are_the_only_text(rename: dict) -> None:
    given = {rename.get(key, key): value for key, value in observation().items()}
    seen = RICH.check(given)
    assert seen["instruction"] == "lift" and seen["images.front"].shape == (4, 6, 3)  # type: ignore


def test_several_frames_are_checked_field_by_field() -> None:
    given = {k: v if k == "instruction" else np.stack([v, v]) for k, v in observation().items()}
    seen = RICH.check_frames(given)
    assert [v.shape[0] for v in seen.values() if not isinstance(v, str)] == [2] * 4
    assert PLAIN.check_frames([[1, 2, 3], [4, 5, 6]])["state"].shape == (2, 3)  # type: ignore
    with pytest.raises(UserError, match="unequal numbers of frames .state: 3, images.front: 2"):
        RICH.check_frames(given | {"state": np.zeros((3, 2))})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros(2), r"shape \(2,\); expected \(3,\)"),
        (np.zeros((0, 3)), r"shape \(0, 3\)"),
        (np.zeros((1, 1, 3)), "shape"),
        (["x", "y", "z"], "is a list of dtype"),
        ([[1, 2], [3]], "numbers"),
        (None, "is a NoneType"),
        ({}, "of 'a' has no 'state'; it has nothing; expected state .state of 3 numbers"),
    ],
)
def test_what_is_no_observation_is_refused_in_one_line(given: object, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        PLAIN.check(given)
    assert "\n" not in str(error.value) and not isinstance(error.value, NotFinite)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images.front": np.zeros((4, 6, 3))}, "'images.front' .* float64; expected uint8, 0 to"),
        ({"images.front": np.zeros((6, 4, 3), np.uint8)}, r"\(6, 4, 3\); expected \(4, 6, 3\)"),
        ({"images.float": np.full((2, 2, 3), np.nan)}, "'images.float' .* not finite"),
        ({"instruction": 3}, "'instruction' .* is a int; expected a string"),
    ],
)
def test_fields_of_other_types_are_refused_by_their_name(change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        RICH.check(observation() | change)
    assert "\n" not in str(error.value)


def test_an_observation_without_names_needs_a_single_state() -> None:
    with pytest.raises(UserError, match="of 'rich' is a ndarray; expected its fields by name"):
        RICH.check(np.zeros(2))


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_an_observation_that_is_not_finite_says_where(bad: float) -> None:
    with pytest.raises(NotFinite, match="entry 1"):
        PLAIN.check_frames(np.array([[0.0, 0.0, 0.0], [0.0, bad, 0.0]]))


def test_a_network_sees_the_fields_that_match_its_patterns() -> None:
    assert list(RICH.seeing(["images.*"]).observation) == [
        "images.front",
        "images.depth",
        "images.float",
    ]
    assert list(RICH.seeing(["instruction", "state"]).observation) == ["state", "instruction"]
    assert RICH.seeing(None) is RICH and RICH.state_dim == 2
    with pytest.raises(UserError, match="observe = stat: 'rich' has no such field.*'state'"):
        RICH.seeing(["stat"])


@pytest.mark.parametrize("name", ["", ".a", "a.", "a..b", "a/b", "a b", "é"])
def test_names_that_would_not_survive_files_and_messages_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="expected letters, digits"):
        Interface("a", {name: Field.state(1)}, BOX)
