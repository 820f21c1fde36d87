"""The guards of a controller's lanes, and what they refused of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from alltrades.data.actions import ActionSpec
from alltrades.data.interface import Interface
from alltrades.errors import UserError
from alltrades.policies.control.guard import REASONS, TIMEOUTS, ActionGuard

Guard = bool | ActionGuard | Mapping[str, ActionSpec]


def _check_finite(actions: np.ndarray) -> None:
    if not np.isfinite(actions).all():
        step, i = np.argwhere(~np.isfinite(actions))[0]
        raise UserError(
            f"the policy's action is {actions[step, i]:g} in dimension {i} of {actions.shape[1]}, "
            f"{step} steps ahead, and no guard is on to replace it; expected finite numbers; check "
            "its weights and what it observes"
        )


class Guards:
    """One guard for each environment, shared by the lanes that are in it; counters of each lane.

    Args:
        environments: of the policy.
        guard: True for the limits of each environment, limits by environment id (see
            `read_limits`), False for none, or one guard that holds for every environment.
        lanes: how many.
    """

    def __init__(self, environments: Sequence[Interface], guard: Guard, lanes: int) -> None:
        self._shared = guard if isinstance(guard, ActionGuard) else None
        self._limits = (
            {}
            if guard is False or self._shared is not None
            else {e.id: e.action for e in environments}
            | (dict(guard) if isinstance(guard, Mapping) else {})
        )
        self._guards: dict[tuple[str, bool], ActionGuard] = {}
        self._refused = [dict.fromkeys((*REASONS, *TIMEOUTS), 0) for _ in range(lanes)]

    def of(self, environment: Interface, acceleration: bool = True) -> ActionGuard | None:
        """The guard of an environment, or None; without `acceleration` it limits box and rate
        only.
        """
        limits, key = self._limits.get(environment.id), (environment.id, acceleration)
        if limits is None:
            return self._shared
        if key not in self._guards:
            self._guards[key] = ActionGuard(
                limits if acceleration else replace(limits, acceleration=None)
            )
        return self._guards[key]

    def apply(
        self, lane: int, guard: ActionGuard | None, actions: np.ndarray, last: np.ndarray | None
    ) -> np.ndarray:
        """Actions (k, A_env) that follow `last` through a guard; what it refuses counts for the
        lane.

        Raises UserError where there is no guard and they are not finite: nothing executes such.
        """
        if guard is None:
            _check_finite(actions)
            return actions
        before = dict(guard.refusals)
        actions = guard(actions, last)
        for reason, count in guard.refusals.items():
            self._refused[lane][reason] += count - before[reason]
        return actions

    def missed(self, lane: int, reason: str) -> None:
        """Count an action that did not come, "hold" or "stop"."""
        self._refused[lane][reason] += 1

    def refusals_of(self, lane: int) -> dict[str, int]:
        """Actions of one lane replaced so far, by reason, over all its episodes."""
        return dict(self._refused[lane])

    @property
    def refusals(self) -> dict[str, int]:
        """The same over all lanes."""
        return {
            reason: sum(refused[reason] for refused in self._refused)
            for reason in (*REASONS, *TIMEOUTS)
        }
