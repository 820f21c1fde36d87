"""What a robot is: observe, act, limits, close; and what else it may offer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np

from alltrades.data.actions import ActionSpec
from alltrades.data.interface import Interface


class Reading(NamedTuple):
    """What `Robot.observe` returns, with its stamp: a time or a sequence number that rises with
    every new observation.
    """

    observation: Any
    stamp: float


class Outcome(NamedTuple):
    """What the last action led to, where a robot can tell: reward, success (None where it does not
    say), and whether the episode is over.
    """

    reward: float = 0.0
    success: bool | None = None
    done: bool = False


class Robot(ABC):
    """What the control loop needs, called from one thread. A class of your own need not inherit it:
    `limits`, `observe`, `act` and `close` suffice, and what else it has of these is used (see
    `load_robot`).

    `observe` and `act` return within a control step: a driver that hangs cannot be stopped through
    itself. It should bring its robot to rest by itself when no action comes for a while, as the
    process may be killed.

    Attributes:
        limits: of the actions. `limits.stop` is what brings the robot to rest; without one it is
            that of the policy's environment.
        control_hz: control rate in Hz, for which limits per control step are declared; None where
            the robot takes any, such as that of the policy's environment.
        environment: id of the environment that it is, or None where the policy is told.
        interface: what it observes and does, where it knows; a policy that was trained on another
            one is refused.
        waits: true where time stands still between two actions: nothing has to be stopped, and no
            rate kept.
    """

    limits: ActionSpec
    control_hz: float | None = None
    environment: str | None = None
    interface: Interface | None = None
    waits: bool = False

    @abstractmethod
    def observe(self) -> Any:
        """The newest observation, in the units of the policy's environment, or None when none is
        there.

        It is {field: value}: of a state an array (D,) of numbers, of an image (H, W, C) of its
        dtype (see `alltrades.data.fields`), of a text the string of this episode, such as
        {"state": joints, "images.front": picture, "instruction": "open the drawer"}; further
        entries are ignored. Where the only field is a state, its numbers (D,) will do. A `Reading`
        is one of these with a stamp.

        Without a stamp an observation is taken for new unless it is the same object with the same
        values as before.
        """

    @abstractmethod
    def act(self, action: np.ndarray) -> None:
        """Execute an action (action_dim,) float32, inside the limits, until the next one comes."""

    @abstractmethod
    def close(self) -> None:
        """Release the robot; called once, after it was stopped."""

    def reset(self, seed: int) -> None:  # noqa: B027
        """Start an episode (a simulator its world; a real robot goes to its start, or waits for a
        person), and leave the robot at rest, also when it is interrupted.

        Limits on changes hold from the stop action on; a dimension that has none may begin anywhere
        in the box.
        """

    def picture(self) -> np.ndarray | None:
        """(H, W, 3) uint8 of what a person who steers it wants to see; None where that is what its
        cameras observe. Called by the thread of `act`.
        """
        return None

    def outcome(self) -> Outcome | None:
        """What the last action led to, asked once per control step before the next action; None
        where it cannot tell.
        """
        return None
