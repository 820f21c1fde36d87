"""Meta-World (extra `metaworld`): every start is a function of the episode's seed, the goal is
visible or hidden.

Meta-World itself draws 50 starts when an environment is constructed and reuses them; here the task
variables are drawn anew for every episode, from the same ranges, by a generator made of the
episode's seed.
"""

from __future__ import annotations

import math
import sys
import warnings
from functools import partial
from typing import Any

import gymnasium
import numpy as np

from alltrades.data.actions import ActionSpec
from alltrades.data.fields import Field
from alltrades.envs.rendering import Camera, Part, Pose
from alltrades.envs.spec import EnvSpec
from alltrades.envs.suites.metaworld_sentences import SENTENCES
from alltrades.envs.symmetry import Reflection, Symmetry, Translation

MAX_STEPS = 500
PARTS = ("x", "y", "z", "qx", "qy", "qz", "qw")
HIDDEN = ":hidden"
MT10 = (
    "reach-v3",
    "push-v3",
    "pick-place-v3",
    "door-open-v3",
    "drawer-open-v3",
    "drawer-close-v3",
    "button-press-topdown-v3",
    "peg-insert-side-v3",
    "window-open-v3",
    "window-close-v3",
)
MT50 = (
    "assembly-v3",
    "basketball-v3",
    "bin-picking-v3",
    "box-close-v3",
    "button-press-topdown-v3",
    "button-press-topdown-wall-v3",
    "button-press-v3",
    "button-press-wall-v3",
    "coffee-button-v3",
    "coffee-pull-v3",
    "coffee-push-v3",
    "dial-turn-v3",
    "disassemble-v3",
    "door-close-v3",
    "door-lock-v3",
    "door-open-v3",
    "door-unlock-v3",
    "drawer-close-v3",
    "drawer-open-v3",
    "faucet-close-v3",
    "faucet-open-v3",
    "hammer-v3",
    "hand-insert-v3",
    "handle-press-side-v3",
    "handle-press-v3",
    "handle-pull-side-v3",
    "handle-pull-v3",
    "lever-pull-v3",
    "peg-insert-side-v3",
    "peg-unplug-side-v3",
    "pick-out-of-hole-v3",
    "pick-place-v3",
    "pick-place-wall-v3",
    "plate-slide-back-side-v3",
    "plate-slide-back-v3",
    "plate-slide-side-v3",
    "plate-slide-v3",
    "push-back-v3",
    "push-v3",
    "push-wall-v3",
    "reach-v3",
    "reach-wall-v3",
    "shelf-place-v3",
    "soccer-v3",
    "stick-pull-v3",
    "stick-push-v3",
    "sweep-into-v3",
    "sweep-v3",
    "window-close-v3",
    "window-open-v3",
)
# The hand and two objects, now and one step ago, then the goal; objects that a task lacks are 0.
NOW = (
    *("hand_x", "hand_y", "hand_z", "gripper"),
    *(f"{thing}_{part}" for thing in ("object1", "object2") for part in PARTS),
)
NAMES = (*NOW, *(f"before_{name}" for name in NOW), "goal_x", "goal_y", "goal_z")
STATE = Field.state(
    39,
    names=NAMES,
    units=tuple("m" if name[-2:] in ("_x", "_y", "_z") else "1" for name in NAMES),
)
# Everything on the table moves together: hand, first and second object, now and one step ago, and
# the goal, in metres; not in height, where the table is. Not declared where something that matters
# is not observed: a hidden goal, walls, bins, rails.
TRANSLATION = Translation(
    ((0, 1), (4, 5), (11, 12), (18, 19), (22, 23), (29, 30), (36, 37)), span=(0.1, 0.1)
)
# The world mirrored at the plane x = 0, which goes through the robot: positions and orientations
# (x, y, z, w), and the first action. Declared where what is fixed in the world is its own mirror
# image, and the task with it.
SIGN = np.ones(39)
SIGN[[0, 4, 11, 18, 22, 29, 36]] = -1.0
SIGN[[8, 9, 15, 16, 26, 27, 33, 34]] = -1.0
MIRROR = Reflection(
    tuple(range(39)),
    tuple(SIGN.tolist()),
    (0.0,) * 39,
    (0, 1, 2, 3),
    (-1.0, 1.0, 1.0, 1.0),
    (0.0,) * 4,
)
MIRRORED = (
    "basketball-v3",
    "button-press-v3",
    "coffee-button-v3",
    "drawer-close-v3",
    "drawer-open-v3",
    "hand-insert-v3",
    "pick-out-of-hole-v3",
    "pick-place-v3",
    "pick-place-wall-v3",
    "plate-slide-v3",
    "push-v3",
    "reach-v3",
    "reach-wall-v3",
    "sweep-into-v3",
)
FIXED = ("wall", "bin-picking", "hammer", "plate-slide")  # parts of the names of those tasks


TABLE = (0.0, 0.63, 0.07)  # m: the middle of what tasks happen in
CAMERAS = {
    "images.corner": Camera(Pose((0.75, 0.075, 0.7), TABLE, fovy=52)),  # Meta-World's corner2, near
    "images.side": Camera(Pose((-0.75, 0.3, 0.75), TABLE, fovy=52)),
    "images.top": Camera(Pose((0.0, 0.6, 1.4), TABLE, (0, 1, 0), fovy=42)),
    "images.wrist": Camera("gripperPOV"),
}
PROPRIOCEPTION = Part((0, 1, 2, 3))  # the hand's place and the gripper's opening


class MetaWorldEnv(gymnasium.Env):
    """One Meta-World task with 39 observations and 4 actions in [-1, 1].

    Args:
        task: such as "reach-v3".
        hidden: zero the goal in the observation; the expert still sees it
            (info["expert_observation"]).
    """

    def __init__(self, task: str, hidden: bool = False) -> None:
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS

        self.task, self.hidden = task, hidden
        env: Any = ALL_V3_ENVIRONMENTS[task]()
        env._partially_observable = False  # the goal is hidden below, so that the expert can see it
        env.__dict__.pop("sawyer_observation_space", None)
        env._freeze_rand_vec = False
        env.seeded_rand_vec = True
        env._set_task_called = True
        env.max_path_length = 10**9  # the adapter owns the time limit
        env.touching_object = partial(touching_object, env)
        env._get_curr_obs_combined_no_goal = partial(seen_without_goal, env)
        module: Any = sys.modules[type(env).__module__]
        if hasattr(module, "Rotation"):
            module.Rotation = Orientation
        self.env = env
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (39,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (4,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start of `seed`: the task variables are uniform over the task's own ranges."""
        if seed is not None:
            self.env.np_random = np.random.default_rng(seed)
        self.env._did_see_sim_exception = False
        observation, _ = self.env.reset()
        return self._show(observation), {"success": False, "expert_observation": observation}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        observation, reward, _, _, info = self.env.step(np.asarray(action, dtype=np.float64))
        return (
            self._show(observation),
            float(reward),
            False,
            False,
            {"success": bool(info["success"]), "expert_observation": observation},
        )

    def trajectory_point(self) -> np.ndarray:
        """(2, 2): hand and first object, seen from above, in metres."""
        observation = self.env._get_curr_obs_combined_no_goal()
        return np.array([observation[0:2], observation[4:6]])

    def close(self) -> None:
        self.env.close()

    def _show(self, observation: np.ndarray) -> np.ndarray:
        out = observation.astype(np.float32)
        if self.hidden:
            out[-3:] = 0.0
        return out


def touching_object(env: Any, geom: int) -> bool:
    """Whether both pads of the gripper press on a geom: what Meta-World asks in most of its
    rewards.

    The same forces in the same order as its own method, which makes an object of every contact,
    twice.
    """
    data = env.data
    pairs = data.contact.geom  # (contacts, 2)
    touched = (pairs == geom).any(1)
    for pad in ("leftpad_geom", "rightpad_geom") if touched.any() else ():
        pressed = touched & (pairs == data.geom(pad).id).any(1)
        if not 0 < sum(data.efc_force[data.contact.efc_address[pressed]]):
            return False
    return bool(touched.any())


def seen_without_goal(env: Any) -> np.ndarray:
    """(18,) of the hand, the gripper's opening, and places and orientations of the objects, as
    Meta-World's own method has it, which stacks arrays of arrays.
    """
    data = env.data
    out = np.zeros(4 + env._obs_obj_max_len)
    out[:3] = env.get_endeff_pos()
    apart = data.body("rightclaw").xpos - data.body("leftclaw").xpos
    out[3] = min(max(math.sqrt(apart.dot(apart)) / 0.1, 0.0), 1.0)
    places, turned = env._get_pos_objects(), env._get_quat_objects()
    count = len(places) // 3
    objects = out[4 : 4 + 7 * count].reshape(count, 7)
    objects[:, :3] = places.reshape(count, 3)
    objects[:, 3:] = turned.reshape(count, 4)
    return out


class Orientation:
    """What Meta-World asks SciPy's `Rotation` for, of one matrix (3, 3) at every step.

    The same numbers as SciPy's, which first makes sure that the matrix is orthogonal: MuJoCo's are.
    """

    def __init__(self, matrix: np.ndarray) -> None:
        self._matrix = matrix

    @classmethod
    def from_matrix(cls, matrix: np.ndarray) -> Orientation:
        return cls(matrix)

    def as_quat(self) -> np.ndarray:
        """(4,) x, y, z, w of length 1 (Markley 2008)."""
        m: list[list[float]] = self._matrix.tolist()
        diagonal = [m[0][0], m[1][1], m[2][2]]
        trace = diagonal[0] + diagonal[1] + diagonal[2]
        quat = [0.0] * 4
        i = max(range(3), key=diagonal.__getitem__)
        if diagonal[i] >= trace:
            j, k = (i + 1) % 3, (i + 2) % 3
            quat[i] = 1 - trace + 2 * m[i][i]
            quat[j] = m[j][i] + m[i][j]
            quat[k] = m[k][i] + m[i][k]
            quat[3] = m[k][j] - m[j][k]
        else:
            quat = [m[2][1] - m[1][2], m[0][2] - m[2][0], m[1][0] - m[0][1], 1 + trace]
        length = math.sqrt(sum(x * x for x in quat))
        return np.array([x / length for x in quat])


class MetaWorldExpert:
    """The scripted policy that Meta-World ships for a task; built where it is used."""

    def __init__(self, task: str) -> None:
        self.task = task
        self._policy: Any = None

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        """Observation (39,) with visible goal -> action (4,), clipped to [-1, 1]."""
        if self._policy is None:
            from metaworld.policies import ENV_POLICY_MAP

            # "Constant(s) may be too high": actions beyond the box, which are clipped below
            warnings.filterwarnings(
                "ignore", message="Constant", category=UserWarning, module="metaworld"
            )
            policies: Any = ENV_POLICY_MAP
            self._policy = policies[self.task]()
        return np.clip(self._policy.get_action(observation), -1.0, 1.0).astype(np.float32)

    def __getstate__(self) -> dict[str, Any]:
        return {"task": self.task, "_policy": None}


def symmetries(task: str) -> tuple[Symmetry, ...]:
    """What a task with visible goal is indifferent to."""
    return ((MIRROR,) if task in MIRRORED else ()) + (
        () if any(part in task for part in FIXED) else (TRANSLATION,)
    )


def specs() -> list[tuple[EnvSpec, MetaWorldExpert]]:
    """All 50 tasks, each with visible and with hidden goal."""
    out = []
    for task in MT50:
        for hidden in (False, True):
            spec = EnvSpec(
                f"metaworld/{task}{HIDDEN if hidden else ''}",
                partial(MetaWorldEnv, task, hidden),
                {"state": STATE},
                ActionSpec(
                    (-1.0,) * 4,
                    (1.0,) * 4,
                    stop=(0.0, 0.0, 0.0, None),
                    names=("hand_dx", "hand_dy", "hand_dz", "gripper"),
                ),
                MAX_STEPS,
                control_hz=80.0,
                extra="metaworld",
                symmetries=() if hidden else symmetries(task),
                success="info:success",
                cameras={} if hidden else CAMERAS,  # they show the goal
                parts={"proprioception": PROPRIOCEPTION},
                instructions=SENTENCES.get(task),
            )
            out.append((spec, MetaWorldExpert(task)))
    return out


def suites() -> dict[str, list[str]]:
    """MT10 and MT50 with the goal visible, "MT10:hidden" and "MT50:hidden" without."""
    return {
        f"{name}{variant}": [f"metaworld/{task}{variant}" for task in tasks]
        for name, tasks in (("MT10", MT10), ("MT50", MT50))
        for variant in ("", HIDDEN)
    }
