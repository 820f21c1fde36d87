"""What a policy knows of an environment: it survives JSON, checks observations, and limits make
sense.
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from alltrades.data.interface import ActionSpec, Interface, NotFinite
from alltrades.errors import UserError

BOX = ActionSpec((-1, -1), (1, 1))
PLAIN = Interface("a", 3, BOX, 50)


def test_json_keeps_every_field_without_infinities() -> None:
    action = ActionSpec((-np.inf, -1.0), (1.0, np.inf), (0.5, np.inf), stop=(0.0, None))
    whole = Interface("b", 4, action, 50, 20.0, (1, 2), 3)
    for value in (whole, PLAIN):
        text = json.dumps(value.to_json(), allow_nan=False)
        assert Interface.from_json(json.loads(text)) == value


def test_the_digest_tells_what_a_policy_depends_on_and_not_the_time_limit() -> None:
    digests = {
        replace(PLAIN, **change).digest()
        for change in (
            {},
            {"id": "b"},
            {"obs_dim": 4},
            {"action": replace(BOX, high=(1, 2))},
            {"control_hz": 5.0},
            {"version": 2},
        )
    }
    assert len(digests) == 6
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


def test_an_observation_becomes_float32_of_its_own() -> None:
    given = np.arange(3)
    found = PLAIN.check(given)
    given[0] = 9
    assert found.dtype == np.float32 and found.tolist() == [0.0, 1.0, 2.0]
    assert PLAIN.check([[1, 2, 3], [4, 5, 6]]).shape == (2, 3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros(2), r"shape \(2,\); expected \(3,\).*'a'"),
        (np.zeros((0, 3)), r"shape \(0, 3\)"),
        (np.zeros((1, 1, 3)), "shape"),
        (["x", "y", "z"], "is a list of dtype"),
        ([[1, 2], [3]], "numbers"),
        (None, "is a NoneType"),
    ],
)
def test_what_is_no_observation_is_refused_in_one_line(given: object, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        PLAIN.check(given)
    assert "\n" not in str(error.value) and not isinstance(error.value, NotFinite)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_an_observation_that_is_not_finite_says_where(bad: float) -> None:
    with pytest.raises(NotFinite, match="entry 1"):
        PLAIN.check(np.array([[0.0, 0.0, 0.0], [0.0, bad, 0.0]]))
