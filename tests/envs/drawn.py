"""An environment that draws its own picture, where a spawned worker can import it."""

import gymnasium
import numpy as np

from alltrades.data.actions import ActionSpec
from alltrades.data.fields import Field
from alltrades.envs.rendering import Camera, Part
from alltrades.envs.spec import EnvSpec


class Drawn(gymnasium.Env):
    """Draws its own picture, one value a step, and counts how often."""

    observation_space = gymnasium.spaces.Box(-1e9, 1e9, (3,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    drawn = 0

    def reset(self, *, seed=None, options=None):
        self.at, self.seed = 0, seed % 7
        return self.look(), {}

    def step(self, action):
        self.at += 1
        return self.look(), 0.0, False, False, {"success": False}

    def look(self):
        return np.array([self.at, self.seed, 5], np.float32)

    def render(self):
        Drawn.drawn += 1
        out = np.zeros((8, 8, 3), np.uint8)
        out[2:6, 2:6] = self.at
        out[0, 0] = 255
        return out


BLIND = EnvSpec(
    "toy/drawn",
    Drawn,
    {"state": Field.state(3, names=("at", "seed", "five"))},
    ActionSpec([-1], [1]),
    10,
)
CAMERA = {"images.top": Camera.own(8, 8)}
PARTS = {"proprioception": Part((1, 0))}


def still(observation):
    """An expert that does nothing."""
    return np.zeros(1, np.float32)
