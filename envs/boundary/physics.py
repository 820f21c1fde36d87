"""MuJoCo's own account of whether its physics can be believed; read, never changed."""

from __future__ import annotations

import sys
from typing import Any

# warnings after which a simulation goes on from other values than it had computed: see mjtWarning
BAD = {4: "QPOS", 5: "QVEL", 6: "QACC", 7: "CTRL"}
INNER = ("unwrapped", "env", "_env", "sim", "physics")  # where environments keep what they wrap
DEPTH = 6


class Physics:
    """The MuJoCo simulation of an environment, where it has one.

    A step diverged when a counter of bad numbers rose in it. MuJoCo sets a simulation back to its
    first state after most of them, counters too: then the counter may be as before, and time went
    back.
    """

    def __init__(self, env: Any) -> None:
        self._data = simulation(env)
        self._time = 0.0
        self._counts: list[int] = []
        if self._data is not None:
            self._numbers = self._data.warning.number  # a view of the simulation's memory
            self.begin()

    def begin(self) -> None:
        """What is counted from here on is new."""
        if self._data is not None:
            self._time, self._counts = self._data.time, self._numbers.tolist()

    def diverged(self) -> str | None:
        """What went wrong since the last call, in words; None where nothing did."""
        if self._data is None:
            return None
        before, self._counts = self._counts, self._numbers.tolist()
        then, self._time = self._time, self._data.time
        if self._counts == before and self._time >= then:
            return None
        back = self._time < then
        for code, name in BAD.items():
            if self._counts[code] > before[code] or (back and self._counts[code]):
                where = int(self._data.warning.lastinfo[code])
                again = " and began again from its first state" if back else ""
                return (
                    f"its physics diverged: MuJoCo found a bad number in {name} at entry {where}"
                    f"{again}"
                )
        return None


def simulation(env: Any) -> Any:
    """The MjData behind an environment and its wrappers, or None."""
    mujoco = sys.modules.get("mujoco")
    if mujoco is None:
        return None
    found, todo, seen = mujoco.MjData, [(env, 0)], set()
    while todo:
        inner, depth = todo.pop(0)
        if inner is None or id(inner) in seen or depth > DEPTH:
            continue
        seen.add(id(inner))
        for name in ("data", "_data", "ptr"):
            data = getattr(inner, name, None)
            data = getattr(data, "ptr", data)
            if isinstance(data, found):
                return data
        todo += [(getattr(inner, name, None), depth + 1) for name in INNER]
    return None
