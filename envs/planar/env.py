"""The planar tasks as gymnasium environments.

Observation (16,), the same layout everywhere: effector position, effector velocity, object
position, object velocity, goal, object minus effector, goal minus object, task entries (drawer:
opening so far and wanted; others 0). Metres and m/s. Action (2,) in [-1, 1]: velocity command of
the effector, in units of `PlanarParams.speed`.
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import mujoco
import numpy as np

from alltrades.envs.planar.model import OBS_DIM, SUBSTEPS, TASKS, PlanarParams, model_xml
from alltrades.envs.planar.picture import top_view

TOLERANCE = {"reach": 0.03, "push": 0.06, "obstacle": 0.04, "drawer": 0.0}  # m
SIZE = 0.45  # half width of the area that starts and goals are drawn from


class PlanarEnv(gymnasium.Env):
    """One planar task.

    Args:
        task: "reach" (two-link arm), "push" (a puck to a goal), "obstacle" (around it, left or
            right), "drawer" (reach behind a handle and pull it out at least as far as wanted).
        params: dynamics, visibility of the goal, mirrored goal.

    Raises ValueError for an unknown task.
    """

    metadata = {"render_modes": ["rgb_array"]}
    render_mode = "rgb_array"

    def __init__(self, task: str, params: PlanarParams | None = None) -> None:
        if task not in TASKS:
            raise ValueError(f"planar task '{task}'; expected one of {', '.join(TASKS)}")
        self.task, self.params = task, params or PlanarParams()
        self.model = mujoco.MjModel.from_xml_string(model_xml(task, self.params))
        self.data = mujoco.MjData(self.model)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (OBS_DIM,), np.float32)
        unit = self.params.unit
        self.action_space = gymnasium.spaces.Box(-unit, unit, (2,), np.float32)
        self.qpos, self.qvel, self.ctrl = self.data.qpos, self.data.qvel, self.data.ctrl  # views
        self.goal = (0.0, 0.0)  # the real one
        self.shown = (0.0, 0.0)  # what the observation says, unless hidden
        self.wanted = 0.0  # drawer opening, m
        self._object = (0.0, 0.0)  # where there is no moving object: goal (reach) or obstacle
        self._home = (0.0, 0.0)  # closed handle
        self._tolerance = TOLERANCE[task]
        self._sign = -1.0 if self.params.mirror else 1.0

    # ---- gymnasium -------------------------------------------------------------------------------
    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start of `seed`: a pure function of it, and the same for mirrored parameters."""
        super().reset(seed=seed)
        rng = self.np_random
        mujoco.mj_resetData(self.model, self.data)
        {
            "reach": self._start_reach,
            "push": self._start_push,
            "obstacle": self._start_obstacle,
            "drawer": self._start_drawer,
        }[self.task](rng)
        if self.params.goal_visible:
            self.model.site_pos[0, :2] = self.shown
        mujoco.mj_forward(self.model, self.data)
        observation, info, _ = self._look()
        return observation, info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One control step of 50 ms; the reward is minus the distance left, in metres, plus 1 at
        success.
        """
        self.command(action)
        self.advance(SUBSTEPS)
        observation, reward, info = self.look()
        return observation, reward, False, False, info

    # ---- the parts of a step, for a robot in real time -------------------------------------------
    def command(self, action: np.ndarray) -> None:
        """Set the servos for an action (2,), from the present state of the arm."""
        speed = self.params.speed / self.params.unit
        vx, vy = speed * float(action[0]), speed * float(action[1])
        ctrl = self.ctrl
        if self.task == "reach":
            ctrl[0], ctrl[1] = self._joint_speeds(vx, vy)
        else:
            ctrl[0], ctrl[1] = vx, vy

    def advance(self, substeps: int) -> None:
        """Let `substeps` times `TIMESTEP` seconds pass."""
        mujoco.mj_step(self.model, self.data, substeps)

    def look(self) -> tuple[np.ndarray, float, dict[str, Any]]:
        """Observation (16,), reward and info at the present state."""
        observation, info, left = self._look()
        return observation, (1.0 if info["success"] else 0.0) - left, info

    def render(self) -> np.ndarray:
        """(SIDE, SIDE, 3) uint8 from above; see `top_view`."""
        observation, _, _ = self._look()
        effector, thing = observation[0:2], observation[4:6]
        joints: list[tuple[float, float]] = []
        if self.task == "reach":
            elbow = self.params.links[0] * np.array(
                [math.cos(self.qpos[0]), math.sin(self.qpos[0])]
            )
            joints = [(0.0, -0.5), (elbow[0], elbow[1] - 0.5), tuple(effector)]
        goal = self.shown if self.params.goal_visible else None
        return top_view(effector, None if joints else thing, goal, TOLERANCE[self.task], joints)

    def trajectory_point(self) -> np.ndarray:
        """(2, 2): effector and object, in metres."""
        observation, _, _ = self._look()
        return observation[[0, 1, 4, 5]].reshape(2, 2)

    # ---- starts ----------------------------------------------------------------------------------
    def _set_goal(self, x: float, y: float) -> None:
        self.shown = (x, y)
        self.goal = (self._sign * x, y)

    def _start_reach(self, rng: np.random.Generator) -> None:
        reach = sum(self.params.links)
        while True:  # the half annulus is symmetric in x: a mirrored goal can be reached too
            angle, radius = rng.uniform(0.15, math.pi - 0.15), rng.uniform(0.45, 0.92) * reach
            self.qpos[:2] = rng.uniform(0.4, math.pi - 0.9), rng.uniform(0.5, 2.2)
            self._set_goal(radius * math.cos(angle), radius * math.sin(angle) - 0.5)
            x, y, _, _ = self._arm_state()
            if math.hypot(self.shown[0] - x, self.shown[1] - y) > 0.2:
                return

    def _start_push(self, rng: np.random.Generator) -> None:
        # The effector starts before the puck and the goal lies beyond it. With goals in every
        # direction a policy cloned from ten demonstrations hardly ever succeeds, and all methods
        # look alike.
        while True:
            ex, px, gx = rng.uniform(-0.4, 0.4), rng.uniform(-0.3, 0.3), rng.uniform(-0.35, 0.35)
            ey, py, gy = rng.uniform(-0.5, -0.3), rng.uniform(-0.1, 0.1), rng.uniform(0.2, 0.5)
            if math.hypot(gx - px, gy - py) > 0.15:
                break
        self.qpos[:4] = ex, ey, px, py
        self._set_goal(gx, gy)

    def _start_obstacle(self, rng: np.random.Generator) -> None:
        self.qpos[:2] = rng.uniform(-0.3, 0.3), rng.uniform(-0.5, -0.32)
        self._set_goal(rng.uniform(-0.3, 0.3), rng.uniform(0.32, 0.5))
        self._object = (rng.uniform(-0.12, 0.12), rng.uniform(-0.08, 0.08))
        self.data.mocap_pos[0, :2] = self._object

    def _start_drawer(self, rng: np.random.Generator) -> None:
        self.qpos[:2] = rng.uniform(-SIZE, SIZE), rng.uniform(-0.5, -0.2)
        self._home = (rng.uniform(-0.35, 0.35), rng.uniform(0.05, 0.3))
        self.qpos[2:4] = self._home
        self.wanted = rng.uniform(0.12, 0.3)
        x, y = self._home
        self.shown = (x, y - self.wanted)
        self.goal = (x, y - self._sign * self.wanted)

    # ---- observation -----------------------------------------------------------------------------
    def _arm_state(self) -> tuple[float, float, float, float]:
        """Position and velocity of the arm's tip."""
        l1, l2 = self.params.links
        q1, q12 = self.qpos[0], self.qpos[0] + self.qpos[1]
        w1, w12 = self.qvel[0], self.qvel[0] + self.qvel[1]
        s1, c1, s2, c2 = math.sin(q1), math.cos(q1), math.sin(q12), math.cos(q12)
        return (
            l1 * c1 + l2 * c2,
            l1 * s1 + l2 * s2 - 0.5,
            -l1 * s1 * w1 - l2 * s2 * w12,
            l1 * c1 * w1 + l2 * c2 * w12,
        )

    def _joint_speeds(self, vx: float, vy: float) -> tuple[float, float]:
        """Damped inverse of the arm's Jacobian, (J'J + 0.01 I)^-1 J'v: joint speeds in rad/s."""
        l1, l2 = self.params.links
        q1, q12 = self.qpos[0], self.qpos[0] + self.qpos[1]
        bx, by = -l2 * math.sin(q12), l2 * math.cos(q12)
        ax, ay = -l1 * math.sin(q1) + bx, l1 * math.cos(q1) + by
        aa, ab, bb = ax * ax + ay * ay + 0.01, ax * bx + ay * by, bx * bx + by * by + 0.01
        u, v = ax * vx + ay * vy, bx * vx + by * vy
        det = aa * bb - ab * ab
        return (bb * u - ab * v) / det, (aa * v - ab * u) / det

    def _look(self) -> tuple[np.ndarray, dict[str, Any], float]:
        """Observation (16,), info, and the distance left (m)."""
        gx, gy = self.goal
        sx, sy = self.shown
        task, extra = self.task, (0.0, 0.0)
        if task == "reach":
            ex, ey, ux, uy = self._arm_state()
            ox, oy, wx, wy = ex, ey, 0.0, 0.0
            left = math.hypot(gx - ex, gy - ey)
        elif task == "obstacle":
            (ex, ey), (ux, uy) = self.qpos.tolist(), self.qvel.tolist()
            (ox, oy), (wx, wy) = self._object, (0.0, 0.0)
            left = math.hypot(gx - ex, gy - ey)
        else:
            ex, ey, ox, oy = self.qpos.tolist()
            ux, uy, wx, wy = self.qvel.tolist()
            if task == "push":
                left = math.hypot(gx - ox, gy - oy)
            else:
                extra = (self._home[1] - oy, self.wanted)
                left = max(0.0, self.wanted - self._sign * extra[0])
        observation = np.array(
            (ex, ey, ux, uy, ox, oy, wx, wy, sx, sy, ox - ex, oy - ey, sx - ox, sy - oy, *extra),
            np.float32,
        )
        info: dict[str, Any] = {"success": left <= self._tolerance}
        if not self.params.goal_visible:
            info["expert_observation"] = observation.copy()
            observation[8:10] = 0.0
            observation[12:14] = 0.0
            observation[15] = 0.0
        return observation, info, left
