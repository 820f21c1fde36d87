"""What a person moves: a keyboard, a gamepad, or a device of your own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from alltrades.data.fields import Observation

COMMANDS = {  # what a person can say besides moving
    "start": "begin the episode",
    "accept": "keep the episode and end it",
    "discard": "throw the episode away and begin its start again",
    "skip": "throw the episode away and go on with another start",
    "success": "the episode succeeded",
    "failure": "the episode failed",
    "pause": "stop for a while, or go on",
    "takeover": "take over from the policy, or hand back",
    "quit": "end; the running episode is not kept",
}


class Leader(ABC):
    """Tells what a person wants at every control step. A class of your own need not inherit it:
    called with the environment's `Interface`, it must have `action`, and what else it has of these
    is used.

    `action` is called in a thread of its own, one call at a time: one that hangs does not keep the
    robot from being stopped. Everything else is called from the main thread.
    """

    @abstractmethod
    def action(self, observation: Observation) -> np.ndarray | None:
        """What to do now: (A,) in the environment's action units, or None where the person does
        nothing. A policy that runs then acts, else the robot keeps its place.

        `observation` is {field: array or text} of the environment; it must not be changed.
        """

    def reset(self) -> None:  # noqa: B027
        """An episode begins."""

    def commands(self) -> Sequence[str]:
        """What the person said since the last call, such as by buttons: names of `COMMANDS`."""
        return ()

    def follow(self, action: np.ndarray) -> None:  # noqa: B027
        """An action (A,) that was sent while the person did nothing: a device that can be moved, or
        a position that is counted on from, may follow it.
        """

    def status(self) -> str:
        """What the window shows of it, one line."""
        return ""

    def close(self) -> None:  # noqa: B027
        """Release the device; called once."""
