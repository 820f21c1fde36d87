"""Numbers beyond single precision are refused where they come in, with what they are."""

from pathlib import Path

import numpy as np
import pytest

from alltrades.data.actions import ActionSpec
from alltrades.data.episode import Episode
from alltrades.data.fields import Field
from alltrades.data.finite import LARGEST, finite
from alltrades.data.flat import FlatArray, States
from alltrades.data.interface import Interface, NotFinite
from alltrades.errors import UserError

ACTIONS = np.zeros((3, 1), np.float32)


def episode(state):
    return Episode.from_arrays({"state": state}, ACTIONS, "a")


def test_numbers_that_single_precision_holds():
    for dtype in (np.float32, np.float64):
        x = np.array([0, -LARGEST, LARGEST, np.inf, -np.inf, np.nan], dtype)
        assert finite(x).tolist() == [True, True, True, False, False, False]
    assert finite(np.array([1e39, -1e299])).tolist() == [False, False]


def test_an_episode_with_larger_ones_is_refused():
    state = np.zeros((3, 2))
    state[2, 1] = -1e299
    with pytest.raises(ValueError, match=r"state is -1e\+299, beyond single .* at step 2"):
        episode(state)
    state[1, 0] = np.nan
    with pytest.raises(ValueError, match="state is not finite at step 1"):
        episode(state)


def test_a_foreign_array_with_larger_ones_says_so_when_it_is_read():
    array = FlatArray(Path("far/state"), np.array([[0.0, 1.0], [2.0, 1e40]]), 2)
    assert array.read(0, 1).tolist() == [[0.0, 1.0]]
    for read in (lambda: array.read(0, 2), lambda: States(array, 2).read(1, 2)):
        with pytest.raises(UserError, match=r"far/state: holds a number that is 1e\+40, beyond"):
            read()


def test_a_policy_is_not_shown_larger_ones():
    wide = Field.state(2, dtype="float64")
    interface = Interface("a", {"state": wide}, ActionSpec((-1.0,), (1.0,)))
    with pytest.raises(NotFinite, match=r"is 1e\+40, beyond single precision .* at entry 1"):
        interface.check({"state": np.array([0, 1e40])})
