"""A robot from its name on the command line."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alltrades.data.actions import ActionSpec
from alltrades.data.fields import Field
from alltrades.data.interface import Interface
from alltrades.envs import registry
from alltrades.envs.robots.robot import Outcome, Robot
from alltrades.errors import UserError, nearest
from alltrades.system.extensions import Extensions

FORMS = "gym:ID, env:ID, mujoco:ID, mujoco:FILE.xml or MODULE:CLASS"
ROBOTS: Extensions[Callable[[], Any]] = Extensions("alltrades.robots", "robot", {})


def load_robot(name: str, seen: Sequence[Interface] = ()) -> Robot:
    """Build the robot that a name stands for. `seen` is what its policy sees in each environment:
    an environment of that id looks through the cameras that it has for it, and is told what to do.

    "gym:Pendulum-v1", "env:planar/reach": an environment, of which time stands still between two
    actions. Nothing is done in it but what the episodes that follow do: it may be a robot behind
    Gymnasium's interface. What it declares is looked at.
    "mujoco:planar/reach", "mujoco:arm.xml": a MuJoCo model in real time. "my_robot:MyRobot",
    "my_robot.py:MyRobot": anything in your module (of the working directory, or installed) that,
    called without arguments, returns a `Robot`. "my_arm": what a plugin registered by
    `ROBOTS.register("my_arm", MyRobot)`, or a package offers as entry point of the group
    alltrades.robots.

    Raises UserError for a name that stands for none, and for an environment that breaks its
    contract.
    """
    kind, _, rest = name.partition(":")
    if not rest:
        names = ROBOTS.names()
        if name in names:
            return adopt(ROBOTS.get(name)(), f"robot '{name}'")
        known = f", or one of {', '.join(names)}" if names else ""
        raise UserError(
            f"robot '{name}'{nearest(name, names)}; expected {FORMS}{known}; load what brings it "
            "with --plugins"
        )
    if kind in ("gym", "env"):
        from alltrades.envs.checking.before_use import foreign_of, heeded, required
        from alltrades.envs.instructions import INSTRUCTION, with_instructions
        from alltrades.envs.rendering.settings import RenderingSettings
        from alltrades.envs.rendering.wanted import seeing
        from alltrades.envs.robots.environment import EnvironmentRobot

        spec = registry.get(name if kind == "gym" else rest)
        fields = _fields(spec.id, seen)
        if INSTRUCTION in fields and spec.instructions is not None:
            (spec,) = with_instructions([spec], True)
        specs = [seeing(spec, fields, RenderingSettings())]
        simulated = EnvironmentRobot(specs[0])
        heeded(specs, required([simulated.look()] if foreign_of(specs) else []))
        return simulated
    if kind == "mujoco":
        from alltrades.envs.robots.plants import MjcfPlant, PlanarPlant
        from alltrades.envs.robots.realtime import RealTimeRobot

        if rest.endswith((".xml", ".mjcf")):
            return RealTimeRobot(MjcfPlant(rest))
        spec = registry.get(rest)
        shown = spec.returned.observation
        more = [n for n in _fields(spec.id, seen) if n not in shown]
        if more:
            raise UserError(
                f"robot '{name}' observes {', '.join(shown)} and the policy sees {', '.join(more)} "
                f"too; expected the same; use env:{spec.id}, which makes them"
            )
        return RealTimeRobot(PlanarPlant(spec))
    return adopt(own_part("robot", kind, rest)(), f"robot '{name}'")


def _fields(environment: str, seen: Sequence[Interface]) -> dict[str, Field]:
    """What a policy sees of an environment."""
    return {n: f for e in seen if e.id == environment for n, f in e.observation.items()}


def own_part(what: str, module: str, attribute: str) -> Callable[..., Any]:
    """What "MODULE:ATTRIBUTE" or "FILE.py:ATTRIBUTE" names, loaded as a plugin: a class, or a
    function that returns a `what`. Raises UserError for anything else.
    """
    path = Path(module if module.endswith(".py") else f"{module}.py")
    if path.exists():
        registry.load_plugins([str(path)])
    else:
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
        registry.load_plugins([module])
    found: Any = importlib.import_module(path.stem if path.exists() else module)
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise UserError(
                f"{what} '{module}:{attribute}': the module has no '{part}'; expected the name of "
                f"a class, or of a function that returns a {what}"
            )
        found = getattr(found, part)
    if not callable(found):
        raise UserError(
            f"{what} '{module}:{attribute}' is a {type(found).__name__}; expected a class, or a "
            f"function that returns a {what}"
        )
    return found


def adopt(driver: Any, name: str = "the robot") -> Robot:
    """Anything with observe(), act(action), limits and close() as a `Robot`; `name` stands in
    errors.

    Raises UserError where one of them is missing, or an attribute is none.
    """
    if isinstance(driver, Robot):
        robot = driver
    else:
        missing = [p for p in ("observe", "act", "limits", "close") if not hasattr(driver, p)]
        if missing:
            raise UserError(
                f"{name} has no {', no '.join(missing)}; expected observe(), act(action), limits "
                "and close(); see alltrades.envs.robots.Robot"
            )
        robot = _Driver(driver)
    if not isinstance(robot.limits, ActionSpec):
        raise UserError(
            f"{name}: limits is a {type(robot.limits).__name__}; expected an ActionSpec from "
            "alltrades.envs.robots"
        )
    rate = robot.control_hz
    if rate is not None and not (isinstance(rate, int | float) and 0 < rate < float("inf")):
        raise UserError(
            f"{name}: control_hz is {rate!r}; expected a positive number of Hz, or None"
        )
    return robot


class _Driver(Robot):
    """A user's class as a `Robot`: what it does not have is as `Robot` declares it."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        for name in ("limits", "control_hz", "environment", "interface", "waits", "picture"):
            if hasattr(driver, name):
                setattr(self, name, getattr(driver, name))
        self._reset = getattr(driver, "reset", super().reset)
        self._outcome = getattr(driver, "outcome", super().outcome)

    def observe(self) -> Any:
        return self._driver.observe()

    def act(self, action: np.ndarray) -> None:
        self._driver.act(action)

    def close(self) -> None:
        self._driver.close()

    def reset(self, seed: int) -> None:
        self._reset(seed)

    def outcome(self) -> Outcome | None:
        found = self._outcome()
        return None if found is None else Outcome(*found)
