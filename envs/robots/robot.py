"""The protocol of a robot: observe, act, limits, close; and what else it may offer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np


class Reading(NamedTuple):
    """An observation (obs_dim,) with its stamp: a time or a sequence number that rises with every
    new observation.
    """

    observation: np.ndarray
    stamp: float


class Outcome(NamedTuple):
    """What the last action led to, where a robot can tell: reward, success, and whether the episode
    is over.
    """

    reward: float = 0.0
    success: bool = False
    done: bool = False


@dataclass(frozen=True)
class RobotLimits:
    """What a robot can do; everything per action dimension, in action units.

    Attributes:
        low, high: box of the actions.
        control_hz: control rate in Hz, for which limits per control step are declared; None where
            the robot takes any, such as that of the policy's environment.
        rate: largest change between two control steps, or None.
        acceleration: largest change of that change, or None.
        stop_action: what brings the robot to rest, such as zero velocities; None for a dimension
            that keeps its last value, such as a position. None in place of all: that of the
            policy's environment.

    Raises ValueError when sizes disagree, the box is empty, a limit is not positive or
    `stop_action` lies outside the box.
    """

    low: Sequence[float]
    high: Sequence[float]
    control_hz: float | None = None
    rate: Sequence[float] | None = None
    acceleration: Sequence[float] | None = None
    stop_action: Sequence[float | None] | None = None

    def __post_init__(self) -> None:
        low, high = np.asarray(self.low, dtype=float), np.asarray(self.high, dtype=float)
        if low.ndim != 1 or low.shape != high.shape or not (low <= high).all():
            raise ValueError(
                f"robot limits: low {low.tolist()}, high {high.tolist()}; expected two lists of "
                "one length with "
                "low <= high"
            )
        for name in ("rate", "acceleration"):
            value = getattr(self, name)
            if value is not None and (len(value) != len(low) or not (np.asarray(value) > 0).all()):
                raise ValueError(
                    f"robot limits: {name} {list(value)}; expected {len(low)} positive numbers"
                )
        if self.stop_action is not None:
            stop = list(self.stop_action)
            if len(stop) != len(low) or not all(
                v is None or a <= v <= b for a, v, b in zip(low, stop, high)
            ):
                raise ValueError(
                    f"robot limits: stop_action {stop}; expected {len(low)} entries, each inside "
                    "the box or None"
                )
        if self.control_hz is not None and not (
            np.isfinite(self.control_hz) and self.control_hz > 0
        ):
            raise ValueError(
                f"robot limits: control_hz {self.control_hz}; expected a positive number"
            )

    @property
    def action_dim(self) -> int:
        return len(self.low)


class Robot(Protocol):
    """What the control loop needs. Called from one thread; `limits` may be an attribute.

    `observe` and `act` return within a control step: a driver that hangs cannot be stopped through
    itself. It should bring its robot to rest by itself when no action comes for a while, as the
    process may be killed.

    A robot may further have
    - `reset(seed: int)`: start an episode (a simulator its world; a real robot goes to its start,
      or waits for a person), and
      leave the robot at rest, also when it is interrupted. Limits on changes hold from the stop
      action on; a dimension that has none may begin anywhere in the box;
    - `outcome() -> Outcome`: what the last action led to, asked once per control step before the
      next action;
    - `environment: str`: id of the environment that it is, where the policy is not told otherwise;
    - `waits: bool`: true where time stands still between two actions: nothing has to be stopped,
      and no rate kept.
    """

    @property
    def limits(self) -> RobotLimits: ...

    def observe(self) -> np.ndarray | Reading | None:
        """The newest observation (obs_dim,), in the units of the policy's environment, or None when
        none is there.

        Without a stamp an observation is taken for new unless it is the same array with the same
        values as before.
        """

    def act(self, action: np.ndarray) -> None:
        """Execute an action (action_dim,) float32, inside the limits, until the next one comes."""

    def close(self) -> None:
        """Release the robot; called once, after it was stopped."""
