"""An environment with a picture that it draws itself, which a worker can import: a plugin of
tests.
"""

import gymnasium
import numpy as np

from alltrades.envs import register
from alltrades.envs.rendering import Camera, Part

SIDE = 16


class Spot(gymnasium.Env):
    """Move x to the goal, which the picture shows as a bright column."""

    observation_space = gymnasium.spaces.Box(-2, 2, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        self.x, self.goal = np.random.default_rng(seed).uniform(-1, 1, 2)
        return self._seen(), {}

    def step(self, action):
        self.x += 0.2 * float(action[0])
        success = bool(abs(self.x - self.goal) < 0.15)
        return self._seen(), float(success), False, False, {"success": success}

    def _seen(self):
        return np.array([self.x, self.goal], np.float32)

    def render(self):
        out = np.full((SIDE, SIDE, 3), 30, np.uint8)
        column = round((self.goal + 1) / 2 * (SIDE - 1))
        out[:, max(0, column - 1) : column + 2] = (250, 200, 0)
        return out


def expert(observation):
    return np.clip(5 * (observation[1:] - observation[:1]), -1, 1)


register(
    "looking/spot",
    Spot,
    expert=expert,
    max_steps=20,
    cameras={"images.top": Camera.own(SIDE, SIDE)},
    parts={"proprioception": Part((0,))},
)
