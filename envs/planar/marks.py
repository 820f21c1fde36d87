"""Many tasks in one scene: three coloured marks, of which an instruction names one."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from alltrades.data.actions import ActionSpec
from alltrades.data.fields import Field
from alltrades.envs.instructions import INSTRUCTION
from alltrades.envs.planar.experts import towards
from alltrades.envs.planar.model import PlanarParams
from alltrades.envs.planar.registration import ARM, top
from alltrades.envs.planar.sentences import COLOURS, MARKS
from alltrades.envs.spec import EnvSpec

NAMES = (
    *("effector_x", "effector_y", "effector_vx", "effector_vy"),
    *(f"{colour}_{axis}" for colour in COLOURS for axis in "xy"),
)
STATE = Field.state(
    len(NAMES), names=NAMES, units=tuple("m/s" if "_v" in name else "m" for name in NAMES)
)
MAX_STEPS = 80


def make(params: PlanarParams) -> Any:
    """Build the environment, which imports MuJoCo."""
    from alltrades.envs.planar.marks_env import MarksEnv

    return MarksEnv(params)


def marks_expert(observation: np.ndarray) -> np.ndarray:
    """State (10,) and the place of the named mark (2,) -> action (2,)."""
    x, y, *_, goal_x, goal_y = map(float, observation)
    return np.array(towards((x, y), (goal_x, goal_y)), np.float32)


def marks_spec(env_id: str) -> EnvSpec:
    """Specification of the scene."""
    return EnvSpec(
        env_id,
        partial(make, PlanarParams()),
        {"state": STATE, INSTRUCTION: Field.text()},
        ActionSpec((-1.0, -1.0), (1.0, 1.0), stop=(0.0, 0.0), names=("effector_vx", "effector_vy")),
        MAX_STEPS,
        control_hz=20.0,
        success="info:success",
        cameras={"images.top": top("marks")},
        parts={"proprioception": ARM},
        instructions=MARKS,
        told="training",
    )


def specs() -> list[tuple[EnvSpec, Any]]:
    """The scene and its expert."""
    return [(marks_spec("planar/marks"), marks_expert)]


def suites() -> dict[str, list[str]]:
    """ "planar-marks": three tasks in one environment, which the instruction tells apart."""
    return {"planar-marks": ["planar/marks"]}
