"""The last check before an action reaches a machine: finite, inside the box, not too fast, not too
sudden. NumPy only.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence

import numpy as np

from alltrades.data.actions import ActionSpec

log = logging.getLogger(__name__)

REASONS = ("finite", "box", "rate", "acceleration")  # why an action was replaced
WORDS = {  # what is wrong with a dimension; at most 200 characters with all around it
    "finite": "is {:g}; expected a finite number",
    "box": "is {:.6g}; expected {:.6g} to {:.6g}",
    "rate": "moves by {:.6g} in one step; expected at most {:.6g}",
    "acceleration": "moves by {:.6g} after a step of {:.6g}; expected a change of at most {:.6g}, "
    "and room to stop",
}
TIMEOUTS = ("hold", "stop")  # what was given in place of one that did not come
LOGGED = 10  # holds of one episode that are logged
SLACK = (
    1e-4  # share of the action range: a bound missed by rounding is clipped without being counted
)


class ActionGuard:
    """Replaces actions that must not be executed, and counts them by reason in `refusals`.

    An action with a non-finite entry is replaced by the last good one ("finite"), one outside the
    box by the nearest one inside ("box"), and one that moves further than the rate limit from the
    action before it by the furthest allowed step in the same direction of each dimension ("rate").
    With an acceleration limit a step differs from the step before by no more than that, and is
    never so long that the next ones could not come to rest inside the box ("acceleration"); the box
    itself goes before the limit.

    Args:
        limits: in the environment's action units; a box may be infinite or unknown.
    """

    def __init__(self, limits: ActionSpec) -> None:
        self.limits = limits
        self.low, self.high = (bound.astype(np.float32) for bound in limits.box)
        self.rate = None if limits.rate is None else np.asarray(limits.rate, np.float32)
        self.acceleration = (
            None if limits.acceleration is None else np.asarray(limits.acceleration, np.float32)
        )
        finite = np.isfinite(self.low) & np.isfinite(self.high)
        with np.errstate(invalid="ignore"):  # inf - inf, discarded
            span = np.where(finite, self.high - self.low, 0.0)
            middle = np.where(
                finite, 0.5 * self.low + 0.5 * self.high, np.clip(0.0, self.low, self.high)
            )
        for i, value in enumerate(limits.stop or ()):
            middle[i] = middle[i] if value is None else value
        self._soft_low, self._soft_high = self.low - SLACK * span, self.high + SLACK * span
        self.rest = middle.astype(np.float32)
        self.refusals: dict[str, int] = dict.fromkeys(REASONS, 0)
        self._counting = True

    @property
    def action_dim(self) -> int:
        return len(self.low)

    def __call__(self, actions: np.ndarray, last: np.ndarray | None = None) -> np.ndarray:
        """Actions (k, A) to execute one after another -> (k, A) float32 that may be executed; the
        input is not changed.

        `last` (A,), or (2, A) for the last two in order, is what was executed before the first of
        them; None at the start of an episode, where a non-finite action becomes the stop action,
        and in dimensions without one the middle of the box, and the first action has no rate limit.
        What moved before a single last action is taken to be at rest.
        """
        actions = np.asarray(actions, dtype=np.float32)  # (k, A)
        if actions.ndim != 2 or actions.shape[1] != len(self.low):
            raise ValueError(f"actions have shape {actions.shape}; expected (k, {len(self.low)})")
        free = self.rate is None and self.acceleration is None
        if free and ((actions >= self.low) & (actions <= self.high)).all():  # false for nan
            return actions.copy()
        good = np.isfinite(actions).all(axis=1)  # (k,)
        outside = good & ((actions < self._soft_low) | (actions > self._soft_high)).any(axis=1)
        if outside.any():
            found = actions[outside][0]
            wrong = (found < self._soft_low) | (found > self._soft_high)
            self._count("box", int(outside.sum()), wrong, found, self.low, self.high)
        if not good.all():
            found = actions[~good][0]
            self._count("finite", int((~good).sum()), ~np.isfinite(found), found)
        inside = np.clip(actions, self.low, self.high)
        return inside if free and good.all() else self._follow(inside, good, last)

    def preview(self, actions: np.ndarray, last: np.ndarray | None = None) -> np.ndarray:
        """What `__call__` would make of actions that are still to come; counts and logs nothing."""
        shadow = copy.copy(self)
        shadow._counting = False
        return shadow(actions, last)

    def _follow(self, actions: np.ndarray, good: np.ndarray, last: np.ndarray | None) -> np.ndarray:
        """Hold and limit step by step, each against the action that is really executed
        before it.
        """
        past = (
            np.zeros((0, len(self.low)), np.float32)
            if last is None
            else np.atleast_2d(np.asarray(last, np.float32))
        )
        before = past[-1] if len(past) else None
        moved = past[-1] - past[-2] if len(past) > 1 else np.zeros(len(self.low), np.float32)
        limited = self.rate is not None or self.acceleration is not None
        for i in range(len(actions)):
            if not good[i]:
                actions[i] = self.rest if before is None else before
            if limited and before is not None:
                # the box is convex and `before` lies inside: so does every point between it and
                # what was asked for
                step = self._step(actions[i] - before, before, moved)
                actions[i] = np.clip(before + step, self.low, self.high)
                moved = actions[i] - before
            before = actions[i]
        return actions

    def _step(self, step: np.ndarray, before: np.ndarray, moved: np.ndarray) -> np.ndarray:
        """The step (A,) that is nearest to the one asked for, from `before`, after the step
        `moved`.
        """
        if self.rate is not None:
            fast = np.abs(step) > self.rate * (1 + SLACK)
            if fast.any():
                self._count("rate", 1, fast, step, self.rate)
            step = np.clip(step, -self.rate, self.rate)
        if self.acceleration is not None:
            a = self.acceleration
            up = np.maximum(np.minimum(moved + a, _braking(self.high - before, a)), moved - a)
            down = np.minimum(np.maximum(moved - a, -_braking(before - self.low, a)), moved + a)
            limited = np.clip(step, np.minimum(down, up), up)
            sudden = np.abs(limited - step) > SLACK * a
            if sudden.any():
                self._count("acceleration", 1, sudden, step, moved, a)
            step = limited
        return step

    def _count(self, reason: str, count: int, wrong: np.ndarray, *facts: np.ndarray) -> None:
        """Count actions, and log the first dimension of the first that was `wrong` (A,) with its
        entry of each of `facts` (A,).
        """
        if not self._counting:
            return
        if self.refusals[reason] == 0:
            i = int(np.argmax(wrong))
            log.warning(
                "action refused (%s): dimension %d of %d %s%s; later ones are only counted",
                reason,
                i,
                len(wrong),
                WORDS[reason].format(*(float(fact[i]) for fact in facts)),
                f"; {wrong.sum()} dimensions are wrong" if wrong.sum() > 1 else "",
            )
        self.refusals[reason] += count


class Watchdog:
    """What one robot does while no fresh action comes: it holds the last one, and after
    `stop_after` seconds it stops.

    Stopped, it gets the environment's stop action, whose entries None keep their last value; where
    none is declared it goes on holding the last action, as what brings an unknown robot to rest
    cannot be known. It stays stopped, whatever comes, until a new watchdog is made for its next
    episode: the loop should end when `stopped` is True. What this class returns passes the guard
    like every other action.

    Args:
        stop_after: seconds since the last fresh action.
        stop_action: (A,) of the environment, or None.

    Raises ValueError unless stop_after > 0.
    """

    def __init__(
        self, stop_after: float, stop_action: Sequence[float | None] | None = None
    ) -> None:
        if not stop_after > 0:
            raise ValueError(f"stop after {stop_after} s; expected a positive time")
        self.stop_after = stop_after
        self._action = (
            None
            if stop_action is None
            else np.array([np.nan if v is None else v for v in stop_action], np.float32)
        )
        self._fresh: float | None = None
        self._holding, self._holds = False, 0
        self.stopped = False

    def fresh(self, now: float) -> None:
        """A fresh action is executed at time `now`, in seconds of any clock that only goes
        forward.
        """
        self._fresh, self._holding = now, False

    def missing(self, last: np.ndarray, now: float) -> tuple[np.ndarray, str]:
        """No fresh action is there at `now`: what to execute (A,) after `last` (A,), and "hold" or
        "stop".
        """
        self._fresh = now if self._fresh is None else self._fresh
        age = now - self._fresh
        if not self.stopped and age > self.stop_after:
            self.stopped = True
            log.warning(
                "stop: no fresh action for %.2f s, more than %g s; stopped until the next reset",
                age,
                self.stop_after,
            )
        elif not self.stopped and not self._holding:
            self._holding = True
            self._holds += 1
            if self._holds <= LOGGED:
                log.warning(
                    "hold: no fresh action; the last one is held%s",
                    "; later holds of this episode are only counted"
                    if self._holds == LOGGED
                    else "",
                )
        if self.stopped and self._action is not None:
            return np.where(np.isnan(self._action), last, self._action), "stop"
        return last.copy(), "stop" if self.stopped else "hold"


def _braking(distance: np.ndarray, acceleration: np.ndarray) -> np.ndarray:
    """Longest step (A,) after which steps that shrink by `acceleration` each end within `distance`
    (A,) >= 0, itself included.

    A step s = n a + r, 0 <= r < a, and those after it cover s + (s - a) + .. + r = (n + 1) s - a n
    (n + 1) / 2.
    """
    with np.errstate(invalid="ignore"):  # infinite distances
        n = np.floor((np.sqrt(1 + 8 * np.maximum(distance, 0) / acceleration) - 1) / 2)
        found = np.maximum(distance, 0) / (n + 1) + acceleration * n / 2
    return np.where(np.isfinite(distance), found, np.inf).astype(np.float32)
