"""Parameters of a planar task and the MuJoCo model built from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from alltrades.errors import UserError

TASKS = ("reach", "push", "obstacle", "drawer")
OBS_DIM = 16
EFFECTOR_RADIUS = 0.03  # m
PUCK_RADIUS = 0.08
OBSTACLE_RADIUS = 0.12
CLEARANCE = (
    OBSTACLE_RADIUS + EFFECTOR_RADIUS
)  # centre distance at which the effector touches the obstacle
HANDLE_HALF_LENGTH = 0.07
HANDLE_RADIUS = 0.015
TIMESTEP = 0.01  # s
SUBSTEPS = 5  # per control step: 20 Hz
BLUE, GREY, RED, PURPLE, GREEN = (
    f'rgba="{color}"'
    for color in (
        *("0.2 0.5 1 1", "0.65 0.65 0.65 1", "0.9 0.3 0.15 1", "0.6 0.3 0.8 1", "0.1 0.75 0.2 1"),
    )
)
LIGHT = '<visual><headlight ambient="0.6 0.6 0.6" diffuse="0.4 0.4 0.4" specular="0 0 0"/></visual>'
OPTION = (
    f'<option timestep="{TIMESTEP}" gravity="0 0 0" integrator="implicitfast" solver="Newton" '
    'iterations="8" ls_iterations="6"><flag energy="disable" fwdinv="disable"/></option>'
)
PAINTS = {"red": RED, "green": GREEN, "yellow": 'rgba="0.95 0.85 0.1 1"'}  # of marks
GOAL_DEPTH, GOAL_RADIUS = -0.1, 0.06  # m: below everything else


@dataclass(frozen=True)
class PlanarParams:
    """What makes environments of one task agree or conflict.

    Attributes:
        speed: effector speed at full command, m/s.
        gain: gain of the velocity servos, N s/m (N m s/rad for the arm).
        mass: mass of the effector, kg (of each link for the arm).
        damping: joint damping of the effector, N s/m.
        object_mass, object_damping: of the puck or the drawer.
        links: lengths of the arm's links, m.
        goal_visible: whether the observation shows the goal.
        mirror: the real goal is the shown one with x negated, and the drawer is pushed in instead
            of pulled out: the start of a seed is the same bit for bit, the expert does something
            else.
        unit: what a full command is in the units of actions: they lie in [-unit, unit].

    Raises UserError for masses, lengths, gains, speeds or units that no simulation can have.
    """

    speed: float = 0.6
    gain: float = 30.0
    mass: float = 1.0
    damping: float = 1.0
    object_mass: float = 0.5
    object_damping: float = 6.0
    links: tuple[float, float] = (0.4, 0.4)
    goal_visible: bool = True
    mirror: bool = False
    unit: float = 1.0

    def __post_init__(self) -> None:
        for name in ("speed", "gain", "mass", "object_mass", "unit"):
            _require(name, getattr(self, name), positive=True)
        for name in ("damping", "object_damping"):
            _require(name, getattr(self, name), positive=False)
        if len(self.links) != 2:
            raise UserError(
                f"planar parameter links has {len(self.links)} entries; expected the lengths of "
                "two links in m; give two positive numbers"
            )
        for length in self.links:
            _require("links", length, positive=True)


def _require(name: str, value: float, positive: bool) -> None:
    if not (math.isfinite(value) and (value > 0 or (value == 0 and not positive))):
        raise UserError(
            f"planar parameter {name} is {value}; expected a finite number "
            f"{'> 0' if positive else '>= 0'}; change it"
        )


def model_xml(task: str, p: PlanarParams) -> str:
    """MJCF of a task: a horizontal plane without gravity, so that every contact is in the plane."""
    effector = _arm(p) if task == "reach" else _gantry(p)
    return (
        f'<mujoco model="planar-{task}"><compiler angle="radian"/>{OPTION}{LIGHT}'
        '<default><geom contype="1" conaffinity="1" friction="0.1 0.005 0.0001" solref="0.02 '
        '1"/></default>'
        f"<worldbody>{effector[0]}{_scene(task, p)}{_goal(task, p)}</worldbody>"
        f"<actuator>{effector[1]}</actuator></mujoco>"
    )


def marks_xml(p: PlanarParams, colours: Sequence[str]) -> str:
    """MJCF of a disc on two slides among flat marks, the sites "red", ... in the order of their
    colours.
    """
    body, servos = _gantry(p)
    sites = "".join(
        f'<site name="{colour}" type="cylinder" size="{GOAL_RADIUS} 0.005" '
        f'pos="0 0 {GOAL_DEPTH}" {PAINTS[colour]}/>'
        for colour in colours
    )
    return (
        f'<mujoco model="planar-marks"><compiler angle="radian"/>{OPTION}{LIGHT}'
        f"<worldbody>{body}{sites}</worldbody><actuator>{servos}</actuator></mujoco>"
    )


def _gantry(p: PlanarParams) -> tuple[str, str]:
    """A disc on two slides with velocity servos."""
    slides = "".join(
        f'<joint name="{axis}" type="slide" axis="{vector}" damping="{p.damping}" limited="true" '
        'range="-0.6 0.6"/>'
        for axis, vector in (("x", "1 0 0"), ("y", "0 1 0"))
    )
    body = (
        f'<body name="effector">{slides}<geom type="sphere" size="{EFFECTOR_RADIUS}" '
        f'mass="{p.mass}" {BLUE}/></body>'
    )
    servos = "".join(f'<velocity joint="{axis}" kv="{p.gain}"/>' for axis in "xy")
    return body, servos


def _arm(p: PlanarParams) -> tuple[str, str]:
    """Two links on hinges with velocity servos; the base stands at (0, -0.5)."""
    first, second = p.links
    geom = (
        '<geom type="capsule" fromto="0 0 0 {length} 0 0" size="0.02" mass="{mass}" contype="0" '
        'conaffinity="0" {color}/>'
    )
    body = (
        '<body name="base" pos="0 -0.5 0">'
        '<joint name="q1" type="hinge" axis="0 0 1" '
        f'damping="{0.1 * p.damping}"/>{geom.format(length=first, mass=p.mass, color=GREY)}'
        f'<body name="forearm" pos="{first} 0 0"><joint name="q2" type="hinge" axis="0 0 1" '
        f'damping="{0.1 * p.damping}"/>'
        f"{geom.format(length=second, mass=p.mass, color=BLUE)}</body></body>"
    )
    servos = "".join(f'<velocity joint="{name}" kv="{0.2 * p.gain}"/>' for name in ("q1", "q2"))
    return body, servos


def _scene(task: str, p: PlanarParams) -> str:
    """What the effector meets."""
    if task == "push":
        slides = "".join(
            f'<joint type="slide" axis="{v}" damping="{p.object_damping}"/>'
            for v in ("1 0 0", "0 1 0")
        )
        return (
            f'<body name="object">{slides}<geom type="sphere" size="{PUCK_RADIUS}" '
            f'mass="{p.object_mass}" {RED}/></body>'
        )
    if task == "obstacle":
        return (
            '<body name="object" mocap="true"><geom type="sphere" '
            f'size="{OBSTACLE_RADIUS}" {PURPLE}/></body>'
        )
    if task == "drawer":
        half = HANDLE_HALF_LENGTH
        # The first joint is only there to place the handle at a start: its damping holds it in x
        # from then on.
        slides = (
            '<joint type="slide" axis="1 0 0" damping="1e6"/><joint type="slide" axis="0 1 0" '
            f'damping="{p.object_damping}"/>'
        )
        return (
            f'<body name="object">{slides}<geom type="capsule" fromto="{-half} 0 0 {half} 0 0" '
            f'size="{HANDLE_RADIUS}" mass="{p.object_mass}" {RED}/></body>'
        )
    return ""


def _goal(task: str, p: PlanarParams) -> str:
    """A mark where the shown goal is, which nothing meets."""
    if not p.goal_visible:
        return ""
    size = f'"{GOAL_RADIUS} 0.005"' if task != "drawer" else f'"{HANDLE_HALF_LENGTH} 0.01 0.005"'
    kind = "cylinder" if task != "drawer" else "box"
    return f'<site name="goal" type="{kind}" size={size} pos="0 0 {GOAL_DEPTH}" {GREEN}/>'
