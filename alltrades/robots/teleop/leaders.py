"""Leaders by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from alltrades.data.fields import Observation
from alltrades.data.interface import Interface
from alltrades.envs.robots.load import own_part
from alltrades.errors import UserError, nearest
from alltrades.robots.teleop.hands import GamepadLeader, KeyboardLeader
from alltrades.robots.teleop.leader import Leader
from alltrades.system.extensions import Extensions

LEADERS: Extensions[Callable[[Interface], Any]] = Extensions(
    "alltrades.leaders", "leader", {"keyboard": KeyboardLeader, "gamepad": GamepadLeader}
)


def load_leader(name: str, interface: Interface) -> Leader:
    """Build the leader that a name stands for: "keyboard", "gamepad", "my_module:MyLeader",
    "my_leader.py:MyLeader", or what a plugin registered by `LEADERS.register("my_arm", MyLeader)`,
    or a package offers as entry point of the group alltrades.leaders.

    Raises UserError for a name that stands for none.
    """
    module, _, attribute = name.partition(":")
    if attribute:
        return adopt(own_part("leader", module, attribute)(interface), f"leader '{name}'")
    names = LEADERS.names()
    if name not in names:
        raise UserError(
            f"leader '{name}'{nearest(name, names)}; expected one of {', '.join(names)}, or "
            "MODULE:CLASS; load what brings it with --plugins"
        )
    return adopt(LEADERS.get(name)(interface), f"leader '{name}'")


def adopt(device: Any, name: str = "the leader") -> Leader:
    """Anything with action(observation) as a `Leader`; `name` stands in errors."""
    if isinstance(device, Leader):
        return device
    if not callable(getattr(device, "action", None)):
        raise UserError(
            f"{name} has no action(observation); expected a method that returns an action, or "
            "None; see alltrades.robots.teleop.leader.Leader"
        )
    return _Device(device)


class _Device(Leader):
    """A user's class as a `Leader`: what it does not have is as `Leader` declares it."""

    def __init__(self, device: Any) -> None:
        self._device = device
        for method in ("reset", "follow", "commands", "status", "close"):
            if hasattr(device, method):
                setattr(self, method, getattr(device, method))

    def action(self, observation: Observation) -> Any:
        return self._device.action(observation)
