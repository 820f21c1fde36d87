"""Leaders that a window feeds: the keyboard, and a gamepad."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from alltrades.data.fields import Observation
from alltrades.data.interface import Interface
from alltrades.robots.teleop.drive import Drive
from alltrades.robots.teleop.inputs import Inputs
from alltrades.robots.teleop.leader import Leader

GROUP = 4  # dimensions that are moved at once
GRACE = 0.3  # seconds for which a person who let go still acts
DEAD = 0.12  # of a stick's way, around its middle
FASTER, SLOWER = 2.0, 0.5
KEYS = (  # of each dimension of a group: down, up
    (("left", "a"), ("right", "d")),
    (("down", "s"), ("up", "w")),
    (("page down", "f"), ("page up", "r")),
    (("q",), ("e",)),
)
STICKS = (("leftx", 1.0), ("lefty", -1.0), ("righty", -1.0), ("rightx", 1.0))
CLICKS = {  # what a key or a button changes: the group, or the scale
    "tab": 1,
    "pad rightshoulder": 1,
    "pad leftshoulder": -1,
    "]": FASTER,
    "[": SLOWER,
    "pad dpup": FASTER,
    "pad dpdown": SLOWER,
}


class HandLeader(Leader):
    """Moves up to GROUP dimensions at once, of as many as there are: the next group by a key.

    `attach` must be called before anything else.
    """

    def __init__(self, interface: Interface) -> None:
        self.interface, self.group = interface, 0
        self.groups = -(-interface.action_dim // GROUP)
        self._idle = 0

    def attach(self, inputs: Inputs, drive: Drive, rate: float) -> None:
        """Where keys come from, what becomes of them, and at how many Hz it is asked."""
        self.inputs, self.drive = inputs, drive
        self._grace = round(GRACE * rate)
        self._idle = self._grace

    def action(self, observation: Observation) -> np.ndarray | None:
        self.drive.begin(observation)
        direction = np.zeros(self.interface.action_dim)
        chosen = self.chosen
        direction[chosen] = self.directions()[: len(chosen)]
        moved = self.drive.move(direction)
        self._idle = 0 if direction.any() else self._idle + 1
        return None if self._idle > self._grace and self.drive.still else moved

    @abstractmethod
    def directions(self) -> np.ndarray:
        """(GROUP,) in [-1, 1]."""

    @property
    def chosen(self) -> range:
        """The dimensions that are moved."""
        first = GROUP * self.group
        return range(first, min(first + GROUP, self.interface.action_dim))

    def click(self, name: str) -> None:
        """A key or a button was pressed that is no command."""
        change = CLICKS.get(name)
        if isinstance(change, float):
            self.drive.faster(change)
        elif change is not None:
            self.group = (self.group + change) % self.groups

    def reset(self) -> None:
        self.drive.reset()
        self._idle = self._grace

    def follow(self, action: np.ndarray) -> None:
        self.drive.follow(np.where(self.drive.position, action, self.drive.rest))

    def status(self) -> str:
        names = self.interface.action.names or [str(i) for i in range(self.interface.action_dim)]
        moved = ", ".join(names[i] for i in self.chosen)
        more = f" ({self.group + 1} of {self.groups}, Tab for the next)" if self.groups > 1 else ""
        return f"moves {moved}{more}, speed {self.drive.scale:g}"


class KeyboardLeader(HandLeader):
    """Arrows or A D, S W: the first two dimensions; page keys or F R: the third; Q E: fourth."""

    def directions(self) -> np.ndarray:
        def held(names: tuple[str, ...]) -> bool:
            return any([self.inputs.held(name) for name in names])

        return np.array([float(held(up)) - float(held(down)) for down, up in KEYS])


class GamepadLeader(HandLeader):
    """The left stick moves the first two dimensions, the right one the third (up and down) and the
    fourth.
    """

    def directions(self) -> np.ndarray:
        raw = np.array([sign * self.inputs.axes.get(name, 0.0) for name, sign in STICKS])
        return np.sign(raw) * np.maximum(0.0, abs(raw) - DEAD) / (1 - DEAD)
