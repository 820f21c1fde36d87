"""The scene of three marks as a gymnasium environment.

Observation (10,): effector position and velocity, then the places of the red, the green and the
yellow mark; metres and m/s. Which of them counts, the seed decides (see `Instructions`), and
nothing but the instruction says. Action (2,) in [-1, 1]: velocity command of the effector.
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import mujoco
import numpy as np

from alltrades.envs.planar.model import SUBSTEPS, PlanarParams, marks_xml
from alltrades.envs.planar.sentences import COLOURS, FIRST, MARKS

SIZE = 0.45  # half width of the area that starts and marks are drawn from, m
TOLERANCE = 0.05  # m
SLOW = 0.5  # share of full speed above which a mark is passed, not reached
APART = 0.25  # m between two marks, and between the start and a mark, at least


class MarksEnv(gymnasium.Env):
    """Reach the mark that the instruction names, and slow down there."""

    def __init__(self, params: PlanarParams | None = None) -> None:
        self.params = params or PlanarParams()
        self.model = mujoco.MjModel.from_xml_string(marks_xml(self.params, COLOURS))
        self.data = mujoco.MjData(self.model)
        size = FIRST + 2 * len(COLOURS)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.places = np.zeros((len(COLOURS), 2))  # of the marks
        self.named = 0  # number of the mark that counts

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start of `seed`: mark `seed % 3` counts, the scene is that of `seed // 3`."""
        count = len(COLOURS)
        super().reset(seed=None if seed is None else seed // count)
        rng = self.np_random
        self.named = int(rng.integers(count)) if seed is None else MARKS.goal(seed)
        mujoco.mj_resetData(self.model, self.data)
        while True:
            points = rng.uniform(-SIZE, SIZE, (count + 1, 2))
            gaps = [math.dist(a, b) for i, a in enumerate(points) for b in points[:i]]
            if min(gaps) > APART:
                break
        self.data.qpos[:2], self.places = points[0], points[1:]
        self.model.site_pos[:count, :2] = self.places
        mujoco.mj_forward(self.model, self.data)
        observation, info, _ = self._look()
        return observation, info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One control step of 50 ms; the reward is minus the distance left, in metres, plus 1 at
        success.
        """
        self.data.ctrl[:] = self.params.speed * np.asarray(action, float)
        mujoco.mj_step(self.model, self.data, SUBSTEPS)
        observation, info, left = self._look()
        return observation, (1.0 if info["success"] else 0.0) - left, False, False, info

    def trajectory_point(self) -> np.ndarray:
        """(2, 2): effector and the mark that counts, in metres."""
        return np.stack([self.data.qpos[:2], self.places[self.named]])

    def _look(self) -> tuple[np.ndarray, dict[str, Any], float]:
        """Observation (10,), info, and the distance left (m)."""
        at, speed = self.data.qpos[:2], self.data.qvel[:2]
        place = self.places[self.named]
        left = math.dist(at, place)
        slow = math.hypot(*speed) <= SLOW * self.params.speed
        observation = np.concatenate([at, speed, self.places.ravel()]).astype(np.float32)
        info = {
            "success": left <= TOLERANCE and slow,
            "expert_observation": np.concatenate([observation, place]).astype(np.float32),
        }
        return observation, info, left
