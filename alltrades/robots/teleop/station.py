"""One robot with the person, and the policy, who move it: all that an episode by hand needs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from alltrades.data.actions import ActionSpec
from alltrades.data.fields import Field
from alltrades.data.interface import Interface
from alltrades.envs.robots.robot import Reading, Robot
from alltrades.errors import UserError
from alltrades.policies.acting import ActingPolicy
from alltrades.policies.control.controller import Controller
from alltrades.robots import fit
from alltrades.robots.loop import ControlLoop
from alltrades.robots.teleop.controller import HandController
from alltrades.robots.teleop.desk import Desk
from alltrades.robots.teleop.drive import Drive, positions
from alltrades.robots.teleop.hands import HandLeader
from alltrades.robots.teleop.leader import Leader
from alltrades.robots.teleop.leaders import load_leader

LOOK = 5.0  # seconds in which a robot must observe something


@dataclass(frozen=True)
class Manner:
    """How a person moves robots.

    Attributes:
        leader: its name (see `load_leader`).
        ways: see `positions`. speed: of keys and sticks at first, up to 1.
        by_key: see `HandController`.
        rate: control steps per second; None: the robot's own.
        steps: most actions of an episode; None: the environment's limit, if any.
        timeout: see `ControlLoop`.
        limits: file of limits (see `read_limits`).
    """

    leader: str
    ways: tuple[str, ...] = ("auto",)
    speed: float = 0.5
    by_key: bool = False
    rate: float | None = None
    steps: int | None = None
    timeout: float = 1.0
    limits: str | None = None

    def __post_init__(self) -> None:
        for name in ("speed", "rate", "steps", "timeout"):
            value = getattr(self, name)
            most = 1 if name == "speed" else float("inf")
            if value is not None and not (0 < value <= most and value < float("inf")):
                raise UserError(
                    f"--{name} {value}; expected a positive number"
                    + (", at most 1" if name == "speed" else "")
                )


@dataclass
class Station:
    """What moves together in one environment.

    Attributes:
        info: what its episodes are recorded as.
        source: of its episodes.
    """

    robot: Robot
    info: Interface
    leader: Leader
    controller: HandController
    loop: ControlLoop
    rate: float
    steps: int | None
    source: str

    @classmethod
    def of(
        cls,
        robot: Robot,
        info: Interface,
        manner: Manner,
        desk: Desk,
        policy: ActingPolicy | None = None,
        name: str = "",
    ) -> Station:
        """Set up; `close` takes down what this made.

        Args:
            info: the environment that the robot is; with a policy as that knows it.
            policy: acts while the person does nothing; `name` is its own.

        Raises UserError where limits or rate are unknown, and for a leader of keys or sticks on a
        real robot of which nothing says at what position it begins.
        """
        rate = fit.rate_of(info, robot, manner.rate)
        limits = fit.limits_of(info, robot, manner.limits, rate)
        recorded = fit.recorded_interface(info, robot, limits, rate)
        if policy is None and not robot.waits:
            recorded = replace(recorded, control_hz=rate)
        driven = replace(recorded, action=_told(limits, recorded.action))
        position = positions(driven, manner.ways)
        leader = load_leader(manner.leader, recorded)
        try:
            if isinstance(leader, HandLeader):
                drive = Drive(driven, rate, position, manner.speed)
                if drive.unknown() and not robot.waits and policy is None:
                    raise UserError(
                        f"nothing says at what position action {drive.unknown()[0]} of '{info.id}' "
                        "begins, to which keys and sticks add; expected a state of the same name "
                        "(names of the action and of the field); name them, or use a leader of "
                        "your own, or --drive velocity"
                    )
                leader.attach(desk.inputs, drive, rate)
            acting = None if policy is None else Controller(policy, guard={info.id: limits})
            idle = Drive(driven, rate, position)
            controller = HandController(leader, recorded, idle, acting, manner.by_key)
            hear = None if policy is None else policy.hear
            driven_by = replace(recorded, action=limits)
            loop = ControlLoop(robot, controller, driven_by, rate, manner.timeout, hear=hear)
        except BaseException:
            leader.close()
            raise
        source = f"teleop/{manner.leader.rpartition(':')[2]}" + (f"+{name}" if name else "")
        steps = manner.steps or info.max_steps
        return cls(robot, recorded, leader, controller, loop, rate, steps, source)

    def close(self) -> None:
        """End the leader and what acts; the robot is another's."""
        self.loop.close()
        self.controller.close()
        self.leader.close()


def _told(limits: ActionSpec, known: ActionSpec) -> ActionSpec:
    """Limits with what else is known of the actions: names, units, and what a robot that waits
    would stop by.
    """
    stop = known.stop if limits.stop is None else limits.stop
    if stop is not None:
        low, high = limits.box
        stop = [None if v is None else float(np.clip(v, a, b)) for v, a, b in zip(stop, low, high)]
    names, units = limits.names or known.names, limits.units or known.units
    return replace(limits, stop=stop, names=names, units=units)


def interface_of(robot: Robot, given: str | None, known: Sequence[Interface] = ()) -> Interface:
    """The environment that a robot is: its own interface, one of those `known` by its id, or what
    its first observation tells.

    Args:
        given: its id; default what the robot says.

    Raises UserError for a robot of which nobody says what it is, or that observes nothing.
    """
    own = robot.interface
    name = given or robot.environment or (None if own is None else own.id)
    if name is None:
        raise UserError(
            "the robot does not say which environment it is; expected an id for its episodes; "
            "give one with --environment lab/pick"
        )
    if own is not None:
        return replace(own, id=name)
    for interface in known:
        if interface.id == name:
            if interface.action_dim != robot.limits.size:
                raise UserError(
                    f"the robot takes {robot.limits.size} action values and '{name}' has "
                    f"{interface.action_dim}; expected the same; choose another --environment"
                )
            return interface
    return Interface(name, _looked_at(robot), robot.limits, control_hz=robot.control_hz)


def _looked_at(robot: Robot) -> dict[str, Field]:
    """Fields of what a robot observes now."""
    end = time.monotonic() + LOOK
    while (seen := robot.observe()) is None:
        if time.monotonic() > end:
            raise UserError(
                f"the robot observed nothing for {LOOK:g} s; expected an observation that says "
                "what its fields are; check its sensors, or declare its `interface`"
            )
        time.sleep(0.02)
    values = seen.observation if isinstance(seen, Reading) else seen
    named = values if isinstance(values, dict) else {"state": values}
    try:
        return {
            k: Field.of(v if isinstance(v, str) else np.asarray(v)[None]) for k, v in named.items()
        }
    except (ValueError, TypeError, IndexError) as error:
        raise UserError(
            f"what the robot observes is no observation: {error}; expected fields by name, or "
            "numbers; mend its observe()"
        ) from error
