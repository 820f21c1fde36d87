"""The way to rest: from a robot's last actions to its stop action, within the limits of its guard.
NumPy only.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from alltrades.policies.control.guard import ActionGuard

SLACK = 1e-3  # share of the acceleration limit: rounding of float32
SPARE = 8  # steps, for rounding


def step_to_rest(guard: ActionGuard, sent: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """The next action (A,) on the way to rest.

    Each dimension first slows down where it moves away, then goes to its stop value as fast as the
    limits let it arrive there without passing by: it is led by a guard whose box ends at that
    value. Only one that is too fast for that returns to it.

    Args:
        guard: of the robot; nothing is counted.
        sent: (1 or 2, A) the last actions, in order.
        stop: (A,) stop action, NaN for a dimension that is to stay where it comes to rest.
    """
    last = sent[-1]
    rest = np.where(np.isnan(stop), last, stop).astype(np.float32)
    between = ActionGuard(
        replace(guard.limits, low=np.minimum(last, rest), high=np.maximum(last, rest), stop=None)
    )
    return guard.preview(between.preview(rest[None], sent), sent)[0]


def at_rest(guard: ActionGuard, sent: np.ndarray, stop: np.ndarray) -> bool:
    """Whether the last action (of `sent`, see `step_to_rest`) is the stop action, and may be held
    from now on.
    """
    there = np.isnan(stop) | (sent[-1] == stop)
    if guard.acceleration is not None and len(sent) > 1:  # holding ends its movement at once
        there &= np.abs(sent[-1] - sent[-2]) <= guard.acceleration * (1 + SLACK)
    return bool(there.all())


def steps_to_rest(guard: ActionGuard, sent: np.ndarray, stop: np.ndarray) -> int:
    """As many calls of `step_to_rest` as the limits can make necessary: to end the movement, and to
    go back from there.
    """
    distance = np.where(np.isnan(stop), 0.0, np.abs(stop - sent[-1])).astype(float)
    steps = np.ones_like(distance)
    if guard.acceleration is not None:
        speed = np.abs(sent[-1] - sent[-2]) if len(sent) > 1 else np.zeros_like(distance)
        braking = np.ceil(speed / guard.acceleration)
        distance = distance + speed * braking
        steps += braking + 2 * np.ceil(np.sqrt(2 * distance / guard.acceleration))
    if guard.rate is not None:
        steps += np.ceil(distance / guard.rate)
    return int(steps.max()) + SPARE


def start_at_rest(guard: ActionGuard, wanted: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """What a robot at rest executes before its first action `wanted` (A,): (1, A), the stop action.

    Where a dimension has none its value at rest is not known, and its first action is taken for it.
    """
    return np.where(np.isnan(stop), guard.preview(wanted[None])[0], stop).astype(np.float32)[None]
