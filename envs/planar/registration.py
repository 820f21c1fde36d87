"""Ids and suites of the planar family."""

from __future__ import annotations

from functools import partial
from typing import Any

from alltrades.data.interface import ActionSpec
from alltrades.envs.planar.experts import PlanarExpert
from alltrades.envs.planar.model import OBS_DIM, TASKS, PlanarParams
from alltrades.envs.spec import EnvSpec
from alltrades.errors import UserError, nearest

MAX_STEPS = {"reach": 80, "push": 200, "obstacle": 100, "drawer": 120}
DEFAULT = ("reach", "reach-long", "push", "push-heavy", "obstacle", "drawer")
VARIANTS: dict[str, tuple[str, PlanarParams]] = {
    "reach": ("reach", PlanarParams()),
    "reach-long": ("reach", PlanarParams(links=(0.55, 0.3), damping=3.0, mass=2.0)),
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
    spec = EnvSpec(
        env_id,
        partial(make, task, params),
        OBS_DIM,
        ActionSpec((-1.0, -1.0), (1.0, 1.0), stop=(0.0, 0.0)),
        MAX_STEPS[task],
        control_hz=20.0,
    )
    return spec, PlanarExpert(task, params)


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
