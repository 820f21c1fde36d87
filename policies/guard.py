"""The last check before an action reaches a machine: finite, inside the box, not too fast. NumPy only."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

log = logging.getLogger(__name__)

REASONS = ("finite", "box", "rate")
SLACK = 1e-4  # share of the action range: a bound missed by rounding is clipped without being counted


class ActionGuard:
    """Replaces actions that must not be executed, and counts them by reason in `refusals`.

    An action with a non-finite entry is replaced by the last good one ("finite"), one outside the box by the nearest
    one inside ("box"), and one that moves further than the rate limit from the action before it by the furthest
    allowed step in the same direction of each dimension ("rate").

    Args:
        low, high: (A,) bounds in the environment's action units; infinite bounds are allowed.
        rate: (A,) largest change of each dimension between two consecutive actions, or None for no limit.

    Raises ValueError when shapes disagree or the box is empty.
    """

    def __init__(self, low: Sequence[float] | np.ndarray, high: Sequence[float] | np.ndarray,
                 rate: Sequence[float] | np.ndarray | None = None) -> None:
        self.low = np.asarray(low, dtype=np.float32)
        self.high = np.asarray(high, dtype=np.float32)
        self.rate = None if rate is None else np.asarray(rate, dtype=np.float32)
        if self.low.ndim != 1 or self.low.shape != self.high.shape or not (self.low <= self.high).all():
            raise ValueError(f"action box: low {self.low.tolist()}, high {self.high.tolist()}; "
                             "expected two vectors of one length with low <= high")
        if self.rate is not None and (self.rate.shape != self.low.shape or not (self.rate > 0).all()):
            raise ValueError(f"action rate {self.rate.tolist()}; expected {len(self.low)} positive entries")
        finite = np.isfinite(self.low) & np.isfinite(self.high)
        with np.errstate(invalid="ignore"):  # inf - inf, discarded
            span = np.where(finite, self.high - self.low, 0.0)
            middle = np.where(finite, 0.5 * self.low + 0.5 * self.high, np.clip(0.0, self.low, self.high))
        self._soft_low, self._soft_high = self.low - SLACK * span, self.high + SLACK * span
        self.rest = middle.astype(np.float32)
        self.refusals: dict[str, int] = dict.fromkeys(REASONS, 0)

    @property
    def action_dim(self) -> int:
        return len(self.low)

    def __call__(self, actions: np.ndarray, last: np.ndarray | None = None) -> np.ndarray:
        """Actions (k, A) to execute one after another -> (k, A) float32 that may be executed; the input is not changed.

        `last` (A,) is the action executed before the first of them; None at the start of an episode, where a
        non-finite action becomes the middle of the box and the first action has no rate limit.
        """
        actions = np.asarray(actions, dtype=np.float32)  # (k, A)
        if actions.ndim != 2 or actions.shape[1] != len(self.low):
            raise ValueError(f"actions have shape {actions.shape}; expected (k, {len(self.low)})")
        if self.rate is None and ((actions >= self.low) & (actions <= self.high)).all():  # false for nan
            return actions.copy()
        good = np.isfinite(actions).all(axis=1)  # (k,)
        outside = good & ((actions < self._soft_low) | (actions > self._soft_high)).any(axis=1)
        if outside.any():
            self._count("box", int(outside.sum()), actions[outside][0])
        if not good.all():
            self._count("finite", int((~good).sum()), actions[~good][0])
        inside = np.clip(actions, self.low, self.high)
        return inside if self.rate is None and good.all() else self._follow(inside, good, last)

    def _follow(self, actions: np.ndarray, good: np.ndarray, last: np.ndarray | None) -> np.ndarray:
        """Hold and limit step by step, each against the action that is really executed before it."""
        before = last
        for i in range(len(actions)):
            if not good[i]:
                actions[i] = self.rest if before is None else before
            elif self.rate is not None and before is not None:
                step = actions[i] - before
                if (np.abs(step) > self.rate * (1 + SLACK)).any():
                    self._count("rate", 1, actions[i])
                # the box is convex and `before` lies inside: so does every point between the two
                actions[i] = before + np.clip(step, -self.rate, self.rate)
            before = actions[i]
        return actions

    def _count(self, reason: str, count: int, example: np.ndarray) -> None:
        if self.refusals[reason] == 0:
            log.warning("action refused (%s): %s; box %s to %s, rate %s; later ones are only counted", reason,
                        example.tolist(), self.low.tolist(), self.high.tolist(),
                        None if self.rate is None else self.rate.tolist())
        self.refusals[reason] += count
