"""Robots that are elsewhere: the limits between what one was sent and its next chunk, and the way
to rest.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from alltrades.data.actions import ActionSpec
from alltrades.data.fields import Field
from alltrades.data.interface import Interface
from alltrades.errors import UserError
from alltrades.policies.acting import ActingPolicy
from alltrades.policies.control.chunks import Overlap
from alltrades.policies.server.served import ServedController

HORIZON, EXECUTE, RATE = 6, 3, 0.25


class Scripted(ActingPolicy):
    """Every chunk is `chunk`, whatever was asked."""

    def __init__(self, **more: object) -> None:
        limits: dict = {"rate": (RATE, RATE)} | more
        self.environments = (
            Interface(
                "a",
                {"state": Field.state(1)},
                ActionSpec((-4.0, -4.0), (4.0, 4.0), **limits),
                50,
                10.0,
            ),
            Interface("b", {"state": Field.state(1)}, ActionSpec((-4.0,), (4.0,)), 50, 10.0),
        )
        self.n_obs_steps, self.horizon, self.n_action_steps = 1, HORIZON, EXECUTE
        self.draws = 1
        self.chunk = np.zeros((HORIZON, 2), np.float32)

    def act(
        self,
        window: Mapping[str, np.ndarray],
        environment: np.ndarray,
        noise: np.ndarray,
        known: np.ndarray | None = None,
        keep: np.ndarray | None = None,
    ) -> np.ndarray:
        return np.repeat(self.chunk[None], len(environment), axis=0)


def served(policy: Scripted, **options: object) -> ServedController:
    controller = ServedController(policy, **options)  # type: ignore[arg-type]
    controller.begin(0, "a", 0)
    return controller


def ramp(start: float, step: float = RATE, count: int = HORIZON) -> np.ndarray:
    return np.repeat((start + step * np.arange(count, dtype=np.float32))[:, None], 2, axis=1)


def known(*values: float, keep: float = 1.0) -> Overlap:
    actions = np.repeat(np.array(values, np.float32)[:, None], 2, axis=1)
    return Overlap(actions, np.full(len(values), keep, np.float32))


def ask(controller: ServedController, overlap: Overlap | None = None) -> np.ndarray:
    return controller.plan(
        {0: {"state": np.zeros((1, 1), np.float32)}}, {} if overlap is None else {0: overlap}
    )[0]


# ---- from one chunk to the next ------------------------------------------------------------------
def test_a_robot_that_never_says_what_it_executes_is_never_sent_a_jump() -> None:
    """With and without an empty `known`: the first action is within the rate limit of one that was
    sent before.
    """
    policy = Scripted()
    controller = served(policy)
    sent: np.ndarray | None = None
    for i, empty in enumerate((True, True, False, True, False, False, True)):
        policy.chunk = ramp(3.0 * (-1) ** i, 0.0)
        out = ask(controller, known() if empty else None)
        assert out.shape == ((HORIZON if empty else EXECUTE), 2)
        assert np.abs(np.diff(out, axis=0)).max() <= RATE * 1.0001
        if sent is not None:
            assert np.abs(out[0] - sent).max(axis=1).min() <= RATE * 1.0001
        sent = out
    assert controller.refusals["rate"] > 0


def test_a_chunk_that_goes_on_from_any_action_of_the_last_one_is_left_alone() -> None:
    """How many were executed is not known: an ensemble goes on from the first, others from the
    third or the last.
    """
    for executed in range(1, HORIZON + 1):
        policy = Scripted()
        controller = served(policy)
        policy.chunk = ramp(0.0)
        ask(controller, known())
        policy.chunk = ramp(executed * RATE)
        np.testing.assert_allclose(ask(controller, known()), policy.chunk, atol=1e-6)
        assert controller.refusals["rate"] == 0


def test_an_asynchronous_robot_goes_on_from_what_it_executes_now() -> None:
    policy = Scripted()
    controller = served(policy)
    policy.chunk = ramp(0.0)
    ask(controller)
    policy.chunk = ramp(0.5)
    np.testing.assert_array_equal(ask(controller, known(0.5, 0.75)), policy.chunk)
    policy.chunk = ramp(3.0, 0.0)  # what it does not keep begins within the limit from there, too
    np.testing.assert_allclose(ask(controller, known(0.75, keep=0.0)), ramp(1.0), atol=1e-6)


def test_a_robot_cannot_say_that_it_is_where_the_limits_cannot_have_brought_it() -> None:
    policy = Scripted()
    controller = served(policy)
    controller.check(0, known(4.0).known)  # nothing was sent yet
    policy.chunk = ramp(0.0)
    ask(controller)
    within = RATE * (HORIZON + 1)
    controller.check(0, known(within).known)
    controller.check(0, known().known)
    with pytest.raises(
        UserError, match=r"'known' begins with 1.85 in dimension 0 .*last reply with 0;"
    ):
        controller.check(0, known(within + 0.1).known)
    controller.begin(0, "a", 1)
    controller.check(0, known(4.0).known)


def test_a_new_episode_forgets_what_was_sent_unless_the_robot_goes_on() -> None:
    for first in (None, known()):
        for goes_on in (False, True):
            policy = Scripted()
            controller = served(policy)
            ask(controller, first)
            controller.begin(0, "a", 1, goes_on)
            policy.chunk = ramp(3.0, 0.0)
            assert ask(controller)[0].tolist() == ([RATE] * 2 if goes_on else [3.0] * 2)


def test_a_chunk_that_is_not_finite_holds_what_will_have_been_executed_last() -> None:
    policy = Scripted()
    controller = served(policy)
    policy.chunk = ramp(0.0)
    ask(controller, known())
    policy.chunk = np.full((HORIZON, 2), np.nan, np.float32)
    assert (ask(controller, known()) == ramp(0.0)[EXECUTE - 1]).all()


# ---- rest ----------------------------------------------------------------------------------------
def test_the_way_to_the_stop_action_keeps_the_limits_and_is_not_counted_as_refused() -> None:
    policy = Scripted(stop=(0.0, None), acceleration=(0.125, 0.125))
    controller = served(policy)
    policy.chunk = ramp(1.0, 0.0)
    path = [ask(controller)]
    path += [controller.hold(0) for _ in range(5)]
    assert all(p.shape == (EXECUTE, 2) for p in path)
    actions = np.concatenate(path)
    steps = np.diff(actions, axis=0)
    assert (
        np.abs(steps).max() <= RATE * 1.001
        and np.abs(np.diff(steps, axis=0)).max() <= 0.125 * 1.001
    )
    assert (
        actions[-1].tolist() == [0.0, 1.0] and (actions[:, 1] == 1.0).all()
    )  # None keeps the last value
    assert not any(controller.refusals.values())
    policy.chunk = ramp(2.0, 0.0)
    assert abs(ask(controller)[0, 0]) <= 0.125 * 1.001  # and it goes on from there


def test_an_asynchronous_robot_executes_what_it_has_frozen_and_then_comes_to_rest() -> None:
    controller = served(Scripted(stop=(0.0, 0.0)))
    overlap = Overlap(
        np.array([[1, 1], [0.9, 1], [4, 4]], np.float32), np.array([1, 1, 0.5], np.float32)
    )
    want = [[1, 1], [0.9, 1], [0.65, 0.75], [0.4, 0.5], [0.15, 0.25], [0, 0]]
    np.testing.assert_allclose(controller.hold(0, overlap), want, atol=1e-6)


def test_without_a_stop_action_a_robot_holds_the_action_that_it_executes_last() -> None:
    policy = Scripted()
    for overlap in (None, known()):
        controller = served(policy)
        policy.chunk = ramp(0.0)
        ask(controller, overlap)
        out = controller.hold(0, overlap)
        assert (out == ramp(0.0)[EXECUTE - 1]).all() and len(out) == (
            EXECUTE if overlap is None else HORIZON
        )
        assert (controller.hold(0, overlap) == out).all()


@pytest.mark.parametrize(
    ("stop", "overlap", "asked", "able"),
    [
        (None, None, False, False),
        (None, None, True, True),
        ((0.0, 0.0), None, False, True),
        ((0.0, None), None, False, False),
        ((0.0, None), None, True, True),
        (None, known(1.0), False, True),
        (None, known(), False, False),
    ],
)
def test_a_robot_of_which_nothing_is_known_can_only_be_given_a_whole_stop_action(
    stop: tuple | None, overlap: Overlap | None, asked: bool, able: bool
) -> None:
    policy = Scripted(stop=stop)
    controller = served(policy)
    if asked:
        ask(controller)
    assert controller.can_hold(0, policy.environments[0], overlap, True) == able
    assert controller.can_hold(0, policy.environments[0], overlap, False) == (
        able and not (asked and stop != (0.0, 0.0))
    )


def test_tighter_limits_hold_for_a_robot_at_rest() -> None:
    policy = Scripted(stop=(0.0, 0.0))
    controller = served(
        policy,
        guard={
            "a": ActionSpec((-1.0, -1.0), (1.0, 1.0), (0.1, 0.1)),
            "b": ActionSpec((-4.0,), (4.0,)),
        },
    )
    out = controller.hold(0, known(3.0, 3.0))
    assert out.max() <= 1.0 and np.abs(np.diff(out, axis=0)).max() <= 0.1 * 1.001
