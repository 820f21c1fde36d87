"""The guard against its definition: finite, box, rate, and what it counts."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from alltrades.data.actions import ActionSpec
from alltrades.errors import UserError
from alltrades.policies.control.guard import ActionGuard, Watchdog, _braking


def vector(values: list) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def test_actions_inside_the_box_pass_bit_for_bit_and_count_nothing() -> None:
    guard = ActionGuard(ActionSpec([-1, -2], [1, 2]))
    actions = np.random.default_rng(0).uniform([-1, -2], [1, 2], (50, 2)).astype(np.float32)
    np.testing.assert_array_equal(guard(actions, None), actions)
    assert guard.refusals == {"finite": 0, "box": 0, "rate": 0, "acceleration": 0}


def test_non_finite_actions_hold_the_last_good_one() -> None:
    guard = ActionGuard(ActionSpec([0, 0], [512, 512]))
    actions = np.array(
        [[np.nan, 5], [10, 20], [np.inf, 1], [3, -np.inf], [30, 40]], dtype=np.float32
    )
    given_last = guard(actions, np.array([7, 8], dtype=np.float32))
    np.testing.assert_array_equal(given_last, [[7, 8], [10, 20], [10, 20], [10, 20], [30, 40]])
    assert guard.refusals == {"finite": 3, "box": 0, "rate": 0, "acceleration": 0}
    np.testing.assert_array_equal(
        guard(actions, None)[0], [256, 256]
    )  # nothing to hold: middle of the box


def test_non_finite_actions_before_any_other_become_the_stop_action_where_it_is_known() -> None:
    guard = ActionGuard(ActionSpec([0, 0], [512, 512], stop=[100, None]))
    broken = np.full((1, 2), np.nan, np.float32)
    np.testing.assert_array_equal(guard(broken, None), [[100, 256]])


def test_actions_outside_the_box_are_clipped_and_counted_per_step_but_rounding_is_not_counted() -> (
    None
):
    guard = ActionGuard(ActionSpec([-1, -1], [1, 1]))
    out = guard(np.array([[1.5, -3], [0, 2], [1 + 1e-6, 0]], dtype=np.float32), None)
    np.testing.assert_array_equal(out, np.array([[1, -1], [0, 1], [1, 0]], dtype=np.float32))
    assert guard.refusals["box"] == 2


def test_the_rate_limit_holds_from_the_last_action_on_and_is_absent_at_the_start() -> None:
    guard = ActionGuard(ActionSpec([-10], [10], rate=[1]))
    jump = np.array([[5], [5], [0]], dtype=np.float32)
    np.testing.assert_array_equal(guard(jump, np.array([3], dtype=np.float32)), [[4], [5], [4]])
    assert guard.refusals["rate"] == 2
    np.testing.assert_array_equal(guard(jump, None), [[5], [5], [4]])


def test_unbounded_dimensions_are_allowed() -> None:
    guard = ActionGuard(ActionSpec([-np.inf, 0.5], [np.inf, np.inf]))
    np.testing.assert_array_equal(
        guard(np.array([[1e9, 0]], dtype=np.float32), None), vector([[1e9, 0.5]])
    )
    np.testing.assert_array_equal(
        guard(np.array([[np.nan, 0]], dtype=np.float32), None), vector([[0, 0.5]])
    )


def test_the_input_is_not_changed() -> None:
    actions = np.array([[np.nan], [9]], dtype=np.float32)
    before = actions.copy()
    ActionGuard(ActionSpec([-1], [1], rate=[0.1]))(actions, np.zeros(1, dtype=np.float32))
    np.testing.assert_array_equal(actions, before)


def test_the_first_refusal_of_each_kind_is_logged_and_only_the_first(
    caplog: pytest.LogCaptureFixture,
) -> None:
    guard = ActionGuard(ActionSpec([-1], [1]))
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            guard(np.array([[3], [np.nan]], dtype=np.float32), None)
    assert [record.getMessage().split("(")[1].split(")")[0] for record in caplog.records] == [
        "box",
        "finite",
    ]
    assert guard.refusals == {"finite": 5, "box": 5, "rate": 0, "acceleration": 0}


@given(
    arrays(np.float32, (6, 3), elements=st.floats(width=32, allow_nan=True, allow_infinity=True))
)
def test_whatever_comes_in_what_goes_out_is_finite_inside_and_slow(actions: np.ndarray) -> None:
    low, high, rate = vector([-1, 0, -5]), vector([1, 2, -4]), vector([0.3, 0.1, 1])
    last = vector([0.5, 2, -4.5])
    out = ActionGuard(ActionSpec(low, high, rate))(actions, last)
    assert np.isfinite(out).all() and (out >= low).all() and (out <= high).all()
    steps = np.abs(np.diff(np.concatenate([last[None], out]), axis=0))
    assert (steps <= rate + 1e-6).all()


@pytest.mark.parametrize(
    "arguments", [([0, 0], [1]), ([1], [0]), ([0], [1], [1, 2]), ([0], [1], [0]), ([np.nan], [1])]
)
def test_a_guard_that_makes_no_sense_is_refused(arguments: tuple) -> None:
    with pytest.raises(ValueError, match="action"):
        ActionGuard(ActionSpec(*arguments))


def test_actions_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="expected"):
        ActionGuard(ActionSpec([0], [1]))(np.zeros((3, 2), dtype=np.float32))


def test_a_step_changes_by_the_acceleration_limit_and_comes_to_rest_in_the_box() -> None:
    guard = ActionGuard(ActionSpec([0], [10], acceleration=[1]))
    out = guard(np.full((12, 1), 10, np.float32), np.zeros(1, np.float32))[:, 0]
    np.testing.assert_allclose(out, [1, 3, 6, 8, 9.5, 10, 10, 10, 10, 10, 10, 10], atol=0.51)
    assert out[-1] == pytest.approx(10) and guard.refusals["acceleration"] > 0
    moving = np.array([[4], [7]], np.float32)  # the step before was 3: the next one is at least 2
    assert guard(np.full((1, 1), 7, np.float32), moving)[0, 0] == pytest.approx(9)


@pytest.mark.parametrize(
    "distance, acceleration, longest",
    [
        (0.0, 1.0, 0.0),
        (0.5, 1.0, 0.5),
        (1.0, 1.0, 1.0),
        (3.0, 1.0, 2.0),
        (6.0, 1.0, 3.0),
        (4.5, 1.0, 2.5),
        (np.inf, 1.0, np.inf),
    ],
)
def test_the_longest_step_from_which_one_can_stop(
    distance: float, acceleration: float, longest: float
) -> None:
    step = float(_braking(vector([distance]), vector([acceleration]))[0])
    assert step == pytest.approx(longest)
    if np.isfinite(step):
        assert sum(max(step - i * acceleration, 0) for i in range(50)) == pytest.approx(distance)


@given(
    arrays(np.float32, (20, 2), elements=st.floats(width=32, allow_nan=True, allow_infinity=True)),
    st.integers(1, 7),
)
def test_whatever_comes_in_what_goes_out_accelerates_slowly_in_chunks_of_any_size(
    actions: np.ndarray, size: int
) -> None:
    low, high, rate, acceleration = (
        vector([-1, 0]),
        vector([1, 20]),
        vector([0.5, 3]),
        vector([0.2, 0.7]),
    )
    guard, past = ActionGuard(ActionSpec(low, high, rate, acceleration)), vector([0.1, 10])[None]
    for start in range(0, len(actions), size):
        past = np.concatenate([past, guard(actions[start : start + size], past[-2:])])
    assert np.isfinite(past).all() and (past >= low).all() and (past <= high).all()
    steps = np.diff(past, axis=0)
    assert (np.abs(steps) <= rate + 1e-5).all()
    assert (np.abs(np.diff(steps, axis=0, prepend=np.zeros((1, 2)))) <= acceleration + 1e-4).all()


def test_a_preview_is_what_the_guard_would_do_and_counts_nothing() -> None:
    guard, actions = (
        ActionGuard(ActionSpec([-1], [1], rate=[0.5])),
        np.array([[3.0], [np.nan], [-1.0]], np.float32),
    )
    preview = guard.preview(actions, np.zeros(1, np.float32))
    assert set(guard.refusals.values()) == {0}
    np.testing.assert_array_equal(preview, guard(actions, np.zeros(1, np.float32)))
    assert guard.refusals["box"] == guard.refusals["finite"] == 1


# ---- watchdog ------------------------------------------------------------------------------------
@pytest.mark.parametrize("scale", [1.0, 1.2345678e-30, 1.2345678e30])
def test_refusals_of_any_number_of_dimensions_name_one_of_them_in_200_characters(
    scale: float, caplog: pytest.LogCaptureFixture
) -> None:
    many = [scale / 3] * 400
    guard = ActionGuard(ActionSpec([-v for v in many], many, rate=many, acceleration=many))
    far = np.full((2, 400), scale / 3, np.float32)
    far[0, 7] = np.float32(-1e3 * scale)
    guard(far, np.zeros((2, 400), np.float32))
    guard(np.array([[*far[1, :9], np.nan, *far[1, 10:]]]), None)
    guard(-far[1:], np.stack([far[1] / 2, far[1]]))
    lines = [record.getMessage() for record in caplog.records]
    assert set(guard.refusals) == {
        reason for line in lines for reason in guard.refusals if reason in line
    }
    assert len(lines) == 4 and max(map(len, lines)) <= 200
    assert any("(box): dimension 7 of 400 is -" in line for line in lines)
    assert any("(finite): dimension 9 of 400 is nan; expected a finite number" in s for s in lines)


def test_limits_that_make_no_sense_name_the_dimension_however_many_there_are() -> None:
    low = [-1.0] * 300
    with pytest.raises(ValueError, match=r"\(dimension 299: -1, -2\)") as caught:
        ActionSpec(low, [1.0] * 299 + [-2.0])
    with pytest.raises(UserError, match=r"\(dimension 4: -3, 1, -1, 1\)") as other:
        ActionSpec(low, [1.0] * 300).tightened({"low": [-1] * 4 + [-3] + [-1] * 295}, "limits.yaml")
    with pytest.raises(ValueError, match=r"rate .*\(dimension 1: 0\)") as third:
        ActionSpec(low, [1.0] * 300, rate=[1.0, 0.0] * 150)
    assert all(len(str(error.value)) <= 200 for error in (caught, other, third))


def test_a_watchdog_holds_then_stops_for_good(caplog: pytest.LogCaptureFixture) -> None:
    dog, last = Watchdog(0.5, (0.0, None)), vector([0.7, 0.3])
    dog.fresh(10.0)
    for now, want, reason in (
        (10.25, [0.7, 0.3], "hold"),
        (10.5, [0.7, 0.3], "hold"),
        (10.75, [0.0, 0.3], "stop"),
    ):
        action, why = dog.missing(last, now)
        assert (
            action.tolist() == vector(want).tolist()
            and why == reason
            and dog.stopped == (reason == "stop")
        )
    dog.fresh(11.0)
    assert (
        dog.missing(last, 11.25)[1] == "stop"
        and caplog.text.count("stop: no fresh action for 0.75 s") == 1
    )


def test_fresh_actions_start_the_time_again_and_without_a_stop_action_the_last_is_held() -> None:
    dog, last = Watchdog(0.5), vector([0.7])
    assert dog.missing(last, 3.0)[1] == "hold"  # time begins with the first step
    assert dog.missing(last, 3.5)[1] == "hold"
    dog.fresh(3.6)
    assert dog.missing(last, 4.0)[1] == "hold"
    action, reason = dog.missing(last, 4.2)
    assert reason == "stop" and dog.stopped and action.tolist() == last.tolist()


def test_holds_are_warned_of_a_few_times_per_episode(caplog: pytest.LogCaptureFixture) -> None:
    dog, last = Watchdog(0.5), vector([0.7])
    for i in range(30):
        dog.fresh(float(i))
        dog.missing(last, i + 0.1)
        dog.missing(last, i + 0.2)  # goes on
    lines = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert (
        len(lines) == 10
        and all("hold: no fresh action" in line for line in lines)
        and "only counted" in lines[-1]
    )


@pytest.mark.parametrize("seconds", [0.0, -1.0, np.nan])
def test_a_watchdog_without_a_time_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        Watchdog(seconds)
