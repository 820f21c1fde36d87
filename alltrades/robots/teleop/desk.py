"""Where the person sits: what they say by keys or by the leader, and what they see."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from alltrades.errors import UserError
from alltrades.robots.teleop.hands import GamepadLeader, HandLeader, KeyboardLeader
from alltrades.robots.teleop.inputs import KEYS, Inputs
from alltrades.robots.teleop.leader import COMMANDS, Leader
from alltrades.robots.teleop.window import Window
from alltrades.system.progress import StatusLine

REDRAW = 1 / 20  # seconds
WAIT = 1 / 60  # between two looks at the keys, while nothing moves


class Desk:
    """The window where there is one, else a line on stderr.

    Args:
        leader: what kind it is says whether a gamepad is read.
        windowed: open a window. A keyboard needs one.

    Raises UserError for a keyboard without a window, and what `Window` raises.
    """

    def __init__(self, leader: str, windowed: bool = True) -> None:
        self.inputs = Inputs()
        if leader == "keyboard" and not windowed:
            raise UserError(
                "--no-window with --teleop keyboard, whose keys a window reads; expected a gamepad "
                "or a leader that has commands of its own; leave --no-window out"
            )
        self._window = (
            Window("alltrades collect", self.inputs, leader == "gamepad", windowed)
            if windowed or leader == "gamepad"
            else None
        )
        self._shown, self._line = windowed, StatusLine()
        self._drawn = float("-inf")

    def heard(self, leader: Leader) -> list[str]:
        """Commands since the last call, by keys, buttons and the leader's own."""
        if self._window is not None:
            self._window.poll()
        out = []
        for name in self.inputs.clicks():
            if name in KEYS:
                out.append(KEYS[name])
            elif isinstance(leader, HandLeader):
                leader.click(name)
        own = list(leader.commands())
        unknown = [word for word in own if word not in COMMANDS]
        if unknown:
            raise UserError(
                f"the leader says {unknown[0]!r}; expected some of {', '.join(COMMANDS)}; mend its "
                "commands()"
            )
        return out + own

    def show(
        self, picture: Callable[[], np.ndarray | None], lines: Callable[[], Sequence[str]]
    ) -> None:
        """Draw, unless that was done a moment ago."""
        now = time.monotonic()
        if now - self._drawn < REDRAW:
            return
        self._drawn = now
        if self._window is not None and self._shown:
            self._window.show(picture(), lines())
        else:
            self._line.show(lambda: "  ".join(lines()[:3]))

    def say(self, line: str) -> None:
        """A line that stays, on stdout."""
        self._line.clear()
        print(line, flush=True)

    def close(self) -> None:
        self._line.clear()
        if self._window is not None:
            self._window.close()


def needs_inputs(leader: Leader) -> bool:
    """Whether a leader moves by keys or sticks that a window reads."""
    return isinstance(leader, KeyboardLeader | GamepadLeader)
