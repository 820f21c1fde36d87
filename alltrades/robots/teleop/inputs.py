"""Keys, sticks and buttons as they are now, and which were pressed since somebody looked."""

from __future__ import annotations

from dataclasses import dataclass, field

KEYS = {  # of the keyboard, and "pad ..." of a gamepad, to commands
    "space": "start",
    "return": "accept",
    "backspace": "discard",
    "k": "skip",
    "y": "success",
    "n": "failure",
    "p": "pause",
    "t": "takeover",
    "escape": "quit",
    "pad start": "start",
    "pad a": "accept",
    "pad b": "discard",
    "pad y": "success",
    "pad x": "failure",
    "pad back": "pause",
    "pad rightstick": "takeover",
    "pad guide": "quit",
}


@dataclass
class Inputs:
    """Written by the window in the main thread, read by a leader in another.

    Attributes:
        axes: of the gamepad, -1 to 1, by name: "leftx", "lefty", "rightx", "righty".
    """

    axes: dict[str, float] = field(default_factory=dict)
    _down: dict[str, bool] = field(default_factory=dict)
    _tapped: dict[str, bool] = field(default_factory=dict)
    _clicks: list[str] = field(default_factory=list)

    def press(self, name: str) -> None:
        """A key or a button goes down."""
        self._down[name] = self._tapped[name] = True
        self._clicks.append(name)

    def release(self, name: str) -> None:
        """It goes up."""
        self._down[name] = False

    def release_all(self) -> None:
        """Nobody holds anything any more, such as when the window lost the focus."""
        for name in list(self._down):
            self._down[name] = False
        self.axes.clear()

    def held(self, name: str) -> bool:
        """Whether it is down, or was pressed since the last call: no tap is lost."""
        tapped, self._tapped[name] = self._tapped.get(name, False), False
        return tapped or self._down.get(name, False)

    def clicks(self) -> list[str]:
        """What was pressed since the last call, in order."""
        found, self._clicks = self._clicks, []
        return found
