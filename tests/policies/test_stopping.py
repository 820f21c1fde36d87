"""Ways to rest from any movement, held against the limits themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alltrades.data.actions import ActionSpec
from alltrades.policies.control.guard import ActionGuard
from alltrades.policies.control.stopping import at_rest, start_at_rest, step_to_rest, steps_to_rest

NAN = math.nan


def way(guard: ActionGuard, sent: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """All actions from those sent to rest, (n, A)."""
    out = [*sent]
    for _ in range(steps_to_rest(guard, sent, stop)):
        out.append(step_to_rest(guard, np.array(out[-2:]), stop))
        if at_rest(guard, np.array(out[-2:]), stop):
            return np.array(out)
    raise AssertionError(f"not at rest after {len(out)} steps: {out[-3:]}")


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.booleans())
def test_whatever_moved_comes_to_rest_within_its_limits(
    seed: int, has_rate: bool, has_acceleration: bool
) -> None:
    rng = np.random.default_rng(seed)
    low, high = -rng.uniform(0.5, 2, 3), rng.uniform(0.5, 2, 3)
    rate = rng.uniform(0.02, 1, 3) if has_rate else None
    acceleration = rng.uniform(0.01, 0.5, 3) if has_acceleration else None
    guard = ActionGuard(ActionSpec(low, high, rate, acceleration))
    stop = np.where(rng.random(3) < 0.3, NAN, rng.uniform(low, high)).astype(np.float32)
    sent = start_at_rest(guard, rng.uniform(low, high).astype(np.float32), stop)
    for _ in range(rng.integers(1, 15)):  # somewhere, and moving
        sent = np.stack([sent[-1], guard(rng.uniform(2 * low, 2 * high)[None], sent)[0]])
    before = dict(guard.refusals)
    path = way(guard, sent, stop).astype(float)
    assert guard.refusals == before
    path = np.concatenate([path, path[-1:]])  # held from then on
    assert (path >= low - 1e-6).all() and (path <= high + 1e-6).all()
    np.testing.assert_array_equal(path[-1][~np.isnan(stop)], stop[~np.isnan(stop)])
    steps = np.diff(path, axis=0)
    if rate is not None:
        assert (np.abs(steps) <= rate * (1 + 1e-3)).all()
    if acceleration is not None:
        assert (np.abs(np.diff(steps, axis=0)) <= acceleration * (1 + 1e-2) + 1e-5).all()


def test_without_limits_rest_is_one_step_away() -> None:
    guard, stop = ActionGuard(ActionSpec([-1, -1], [1, 1])), np.array([0.0, NAN], np.float32)
    np.testing.assert_array_equal(
        way(guard, np.array([[0.5, 0.25]], np.float32), stop), [[0.5, 0.25], [0.0, 0.25]]
    )


def test_with_a_rate_limit_it_is_as_many_as_the_limit_asks_for() -> None:
    path = way(
        ActionGuard(ActionSpec([-1], [1], [0.25])),
        np.array([[0.9]], np.float32),
        np.zeros(1, np.float32),
    )
    np.testing.assert_allclose(path[:, 0], [0.9, 0.65, 0.4, 0.15, 0], atol=1e-6)


def test_with_an_acceleration_limit_it_slows_down_before_it_arrives() -> None:
    path = way(
        ActionGuard(ActionSpec([-9], [9], None, [1.0])),
        np.array([[4.0]], np.float32),
        np.zeros(1, np.float32),
    )
    np.testing.assert_allclose(path[:, 0], [4, 3, 1, 0], atol=1e-6)


def test_a_dimension_without_a_stop_value_stays_where_it_comes_to_rest() -> None:
    path = way(
        ActionGuard(ActionSpec([-9], [9], None, [1.0])),
        np.array([[0.0], [2.5]], np.float32),
        np.array([NAN], np.float32),
    )
    np.testing.assert_allclose(path[:, 0], [0, 2.5, 4.0, 4.5], atol=1e-6)


@pytest.mark.parametrize(
    ("wanted", "start"),
    [([0.5, 0.5], [0.1, 0.5]), ([9.0, 9.0], [0.1, 1.0]), ([NAN, NAN], [0.1, 0.0])],
)
def test_an_episode_starts_at_the_stop_action_as_far_as_that_is_known(
    wanted: list[float], start: list[float]
) -> None:
    guard = ActionGuard(ActionSpec([-1, -1], [1, 1], [0.1, 0.1]))
    found = start_at_rest(guard, np.array(wanted, np.float32), np.array([0.1, NAN], np.float32))
    np.testing.assert_allclose(found, [start], rtol=1e-6)
    assert not any(guard.refusals.values())
