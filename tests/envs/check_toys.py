"""Environments with one mistake each, at module level, where a process of its own imports them."""

from __future__ import annotations

import os
import time
from typing import Any

import gymnasium
import numpy as np


class Slide(gymnasium.Env):
    """A point on a line goes to a place beyond the reach of its first step. No mistake."""

    observation_space = gymnasium.spaces.Box(-3, 3, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    metadata = {"render_fps": 10}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.x = float(self.np_random.uniform(-1, 0))
        self.goal = self.x + float(self.np_random.uniform(0.5, 2))
        return self.look(), {}

    def look(self) -> np.ndarray:
        return np.array([self.x, self.goal], np.float32)

    def step(self, action: np.ndarray) -> Any:
        self.x = float(np.clip(self.x + 0.1 * float(action[0]), -2, 2))
        near = bool(abs(self.x - self.goal) < 0.1)
        return self.look(), float(near), False, False, {"success": near}


class Clock(Slide):
    """Shows the time."""

    def look(self) -> np.ndarray:
        return np.array([self.x, time.perf_counter() % 1], np.float32)


class Entropy(Slide):
    """Has a generator of its own that no seed reaches."""

    def step(self, action: np.ndarray) -> Any:
        return super().step(action + np.random.default_rng().normal(size=1))


class Shared(Slide):
    """Counts in a place that all instances share."""

    count = [0]

    def reset(self, **facts: Any) -> Any:
        super().reset(**facts)
        self.count[0] += 1
        self.x += 0.01 * self.count[0]
        return self.look(), {}


class Left(Slide):
    """Its reset leaves what it had learned in the episode before."""

    drift = 0.0

    def step(self, action: np.ndarray) -> Any:
        self.drift += 0.001
        return super().step(action + self.drift)


class Four(Slide):
    def step(self, action: np.ndarray) -> Any:
        return super().step(action)[:4]


class Hangs(Slide):
    def step(self, action: np.ndarray) -> Any:
        time.sleep(1e6)


class Dies(Slide):
    def step(self, action: np.ndarray) -> Any:
        os._exit(7)


class Raises(Slide):
    def step(self, action: np.ndarray) -> Any:
        raise OSError("no license")


class Solved(Slide):
    def step(self, action: np.ndarray) -> Any:
        return self.look(), 1.0, True, False, {"success": True}


class Old(Slide):
    """Seeds a generator of 32 bits."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.x = np.random.RandomState(seed).uniform(-1, 0)
        self.goal = self.x + 0.7
        return self.look(), {}


class Narrow(Slide):
    """Declares less than it returns."""

    observation_space = gymnasium.spaces.Box(-0.01, 0.01, (2,), np.float32)


class Fast(Slide):
    metadata = {"render_fps": 50}


class Far(Slide):
    """Shows coordinates of a map, in metres."""

    def look(self) -> np.ndarray:
        return np.array([self.x, self.goal], float) + (5e6, 0.0)


class Telling(Slide):
    """Tells its expert more, and more exactly, than it shows. No mistake."""

    def reset(self, **facts: Any) -> Any:
        shown, _ = super().reset(**facts)
        return shown, {"expert_observation": np.array([5e6 + self.x, self.goal])}

    def step(self, action: np.ndarray) -> Any:
        shown, *rest, info = super().step(action)
        return (shown, *rest, {**info, "expert_observation": np.array([5e6 + self.x, self.goal])})


class Mapped(Slide):
    """Shows the same in centimetres of a map, and says that it needs float64. No mistake."""

    origin = 1e7
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)

    def look(self) -> np.ndarray:
        return self.origin + 0.01 * np.array([self.x, self.goal])


class Near(Mapped):
    """The same around zero."""

    origin = 0.0


class Constant(Slide):
    """Its start does not depend on the seed."""

    def reset(self, **facts: Any) -> Any:
        return super().reset(seed=0)


class Wide(Slide):
    """Two numbers where one is registered."""

    action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)


def expert(observation: np.ndarray) -> np.ndarray:
    return np.clip(10 * (observation[1:] - observation[:1]), -1, 1)


def lazy(observation: np.ndarray) -> np.ndarray:
    return np.zeros(1)


def two(observation: np.ndarray) -> np.ndarray:
    return np.zeros(2)


def greedy(observation: np.ndarray) -> np.ndarray:
    return 10 * (observation[1:] - observation[:1])


def confused(observation: np.ndarray) -> np.ndarray:
    raise KeyError("gripper")
