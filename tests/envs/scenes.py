"""Environments that say everything by their spaces; module level, where workers import them."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Text

Step = tuple[Any, float, bool, bool, dict[str, Any]]
INSTRUCTIONS = ("öffne die Schublade", "推开门 🚪", "")  # no charset of a Text space is enforced


class Scene(gymnasium.Env):
    """A walk to a goal seen by two cameras of different sizes; which goal, the instruction says."""

    metadata = {"render_fps": 25}
    observation_space = Dict(
        {
            "state": Box(-9, 9, (4,), np.float64),
            "images": Dict(
                {
                    "front": Box(0, 255, (12, 16, 3), np.uint8),
                    "wrist": Box(0, 255, (8, 8), np.uint8),
                }
            ),
            "depth": Box(0, 2**16 - 1, (6, 5, 1), np.uint16),
            "instruction": Text(40),
        }
    )
    action_space = Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place, self.goal = self.np_random.uniform(-1, 1, (2, 2))
        self.said = INSTRUCTIONS[int(seed or 0) % len(INSTRUCTIONS)]
        self.front = np.zeros((12, 16, 3), np.uint8)  # reused from step to step
        return self.look(), {}

    def step(self, action: np.ndarray) -> Step:
        self.place = self.place + 0.2 * np.asarray(action)
        distance = float(np.linalg.norm(self.place - self.goal))
        return self.look(), -distance, False, False, {"success": distance < 0.1}

    def look(self) -> dict[str, Any]:
        self.front[...] = int(50 * abs(self.place[0])) % 256
        wrist = np.full((8, 8), int(50 * abs(self.place[1])) % 256, np.uint8)
        depth = np.full((6, 5, 1), int(9000 * abs(self.goal[0])), np.uint16)
        return {
            "state": np.concatenate([self.place, self.goal]),
            "images": {"front": self.front, "wrist": wrist},
            "depth": depth,
            "instruction": self.said,
        }


class Undecided(Scene):
    """Its instruction changes in step 2."""

    steps = 0

    def step(self, action: np.ndarray) -> Step:
        self.steps += 1
        self.said = "come back" if self.steps == 2 else self.said
        return super().step(action)


class Grid(gymnasium.Env):
    """Integers all over: a cell, its two coordinates, and a discrete action (stay, right, left)."""

    observation_space = Dict({"cell": Discrete(9, start=1), "at": MultiDiscrete([3, 3])})
    action_space = Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.cell = 1
        return self.look(), {}

    def step(self, action: Any) -> Step:
        assert type(action) is int and action in (0, 1, 2), action
        self.cell = int(np.clip(self.cell + (0, 1, -1)[action], 1, 9))
        return self.look(), 0.0, False, False, {"success": self.cell == 9}

    def look(self) -> dict[str, Any]:
        return {"cell": np.int64(self.cell), "at": np.array(divmod(self.cell - 1, 3))}


class Homing:
    """Expert of the scene: it gets what the environment returned, nested and unchanged."""

    def __call__(self, observation: Any) -> np.ndarray:
        assert observation["images"]["front"].shape == (12, 16, 3)
        assert observation["instruction"] in INSTRUCTIONS
        assert observation["state"].dtype == np.float64
        return 5 * (observation["state"][2:] - observation["state"][:2])
