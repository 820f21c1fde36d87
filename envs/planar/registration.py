"""Ids and suites of the planar family."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from alltrades.data.actions import ActionSpec
from alltrades.data.fields import Field
from alltrades.envs.planar.experts import PlanarExpert
from alltrades.envs.planar.model import TASKS, PlanarParams
from alltrades.envs.planar.sentences import MIRRORED
from alltrades.envs.planar.sentences import TASKS as SENTENCES
from alltrades.envs.rendering import Camera, Part, Pose
from alltrades.envs.spec import EnvSpec
from alltrades.errors import UserError, nearest

NAMES = (
    *("effector_x", "effector_y", "effector_vx", "effector_vy"),
    *("object_x", "object_y", "object_vx", "object_vy"),
    *("goal_x", "goal_y"),
    *("object_from_effector_x", "object_from_effector_y"),
    *("goal_from_object_x", "goal_from_object_y"),
    *("opening", "opening_wanted"),
)
MAX_STEPS = {"reach": 80, "push": 200, "obstacle": 100, "drawer": 120}
STATE = Field.state(
    len(NAMES), names=NAMES, units=tuple("m/s" if "_v" in name else "m" for name in NAMES)
)
ARM = Part((0, 1, 2, 3))  # the effector, and what moves it
HEIGHT = 3.0  # m of the camera
DEFAULT = ("reach", "reach-long", "push", "push-heavy", "obstacle", "drawer")
VARIANTS: dict[str, tuple[str, PlanarParams]] = {
    "reach": ("reach", PlanarParams()),
    "reach-long": ("reach", PlanarParams(links=(0.55, 0.3), damping=3.0, mass=2.0)),
    "reach-milli": ("reach", PlanarParams(unit=1e-3)),
    "reach-kilo": ("reach", PlanarParams(unit=1e3)),
    "reach-hidden": ("reach", PlanarParams(goal_visible=False)),
    "reach-mirror": ("reach", PlanarParams(mirror=True)),
    "push": ("push", PlanarParams()),
    "push-heavy": ("push", PlanarParams(object_mass=1.5, object_damping=14.0, gain=45.0)),
    "push-hidden": ("push", PlanarParams(goal_visible=False)),
    "push-mirror": ("push", PlanarParams(mirror=True)),
    "obstacle": ("obstacle", PlanarParams()),
    "obstacle-mirror": ("obstacle", PlanarParams(mirror=True)),
    "drawer": ("drawer", PlanarParams()),
    "drawer-mirror": ("drawer", PlanarParams(mirror=True)),
    "drawer-stiff": ("drawer", PlanarParams(object_damping=14.0)),
}


def make(task: str, params: PlanarParams) -> Any:
    """Build the environment; MuJoCo is imported here, so that listing the family does not
    need it.
    """
    from alltrades.envs.planar.env import PlanarEnv

    return PlanarEnv(task, params)


def planar_spec(
    env_id: str, task: str, params: PlanarParams | None = None
) -> tuple[EnvSpec, PlanarExpert]:
    """Specification and expert of a planar task with your own parameters:
    `envs.registry.register(*planar_spec(...))`.

    Raises UserError for an unknown task.
    """
    if task not in TASKS:
        raise UserError(
            f"there is no planar task '{task}'{nearest(task, list(TASKS))}; expected one of "
            f"{', '.join(TASKS)}; call planar_spec(env_id, task, params)"
        )
    params = params or PlanarParams()
    action = ActionSpec(
        (-params.unit,) * 2,
        (params.unit,) * 2,
        stop=(0.0, 0.0),
        names=("effector_vx", "effector_vy"),
    )
    spec = EnvSpec(
        env_id,
        partial(make, task, params),
        {"state": STATE},
        action,
        MAX_STEPS[task],
        control_hz=20.0,
        success="info:success",
        cameras={"images.top": top(task)},
        parts={"proprioception": ARM},
        instructions=(MIRRORED if params.mirror else SENTENCES)[task],
    )
    return spec, PlanarExpert(task, params)


def top(task: str) -> Camera:
    """The camera above a task: the whole plane that its goals are in."""
    middle, half = (-0.1, 0.85) if task == "reach" else (0.0, 0.65)
    fovy = 2 * math.degrees(math.atan(half / HEIGHT))
    return Camera(Pose((0, middle, HEIGHT), (0, middle, 0), (0, 1, 0), fovy))


def specs() -> list[tuple[EnvSpec, PlanarExpert]]:
    """Every registered variant."""
    return [
        planar_spec(f"planar/{name}", task, params) for name, (task, params) in VARIANTS.items()
    ]


def suites() -> dict[str, list[str]]:
    """ "planar": six tasks that agree. "planar-conflict": equal observations, experts that
    disagree.
    """
    return {
        "planar": [f"planar/{name}" for name in DEFAULT],
        "planar-conflict": ["planar/reach", "planar/reach-mirror"],
    }
