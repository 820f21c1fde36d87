"""Pictures of environments for people who steer them."""

import gymnasium
import numpy as np
import pytest

from alltrades.envs import registry
from alltrades.envs.adapter import EnvAdapter
from alltrades.envs.derived import Draft
from alltrades.errors import UserError


class Drawn(gymnasium.Env):
    """Draws from the global generator, in its steps and in its pictures."""

    observation_space = gymnasium.spaces.Box(-9, 9, (1,))
    action_space = gymnasium.spaces.Box(-1, 1, (1,))
    metadata = {"render_modes": ["human", "rgb_array"]}
    render_mode, fails = None, False

    def reset(self, *, seed=None, options=None):
        return np.random.uniform(-1, 1, 1).astype(np.float32), {}

    def step(self, action):
        return np.random.uniform(-1, 1, 1).astype(np.float32), 0.0, False, False, {}

    def render(self):
        assert self.render_mode == "rgb_array"
        if self.fails:
            raise OSError("no OpenGL")
        np.random.uniform(size=7)
        return np.full((4, 6, 3), 9, np.uint8)


class Wrapped(gymnasium.Env):
    """Without a picture of its own."""

    observation_space, action_space = Drawn.observation_space, Drawn.action_space

    def __init__(self, fails=False):
        self.env = Drawn()
        self.env.fails = fails

    def reset(self, *, seed=None, options=None):
        return self.env.reset(seed=seed)

    def step(self, action):
        return self.env.step(action)


class Failing(Wrapped):
    def __init__(self):
        super().__init__(fails=True)


class Plain(Wrapped):
    def __init__(self):
        super().__init__()
        self.inner, self.env = self.env, None

    def reset(self, *, seed=None, options=None):
        return self.inner.reset(seed=seed)


def adapter(kind) -> EnvAdapter:
    made = EnvAdapter(Draft(f"toy/{kind.__name__.lower()}", kind, {"max_steps": 9}).spec())
    made.reset(3)
    return made


@pytest.mark.parametrize("kind", [Drawn, Wrapped])
def test_an_episode_does_not_depend_on_being_drawn(kind):
    seen, plain = adapter(kind), adapter(kind)
    for _ in range(3):
        assert seen.picture().shape == (4, 6, 3)
        a, b = (x.step(np.zeros(1)).observation["state"] for x in (seen, plain))
        assert np.array_equal(a, b)


def test_what_cannot_be_drawn_says_so_and_what_draws_nothing_is_none():
    failing = adapter(Failing)
    for _ in range(2):
        with pytest.raises(UserError, match="'toy/failing' cannot be drawn: OSError: no OpenGL"):
            failing.picture()
    assert adapter(Plain).picture() is None


@pytest.mark.parametrize("task", ["reach", "push", "obstacle", "drawer"])
def test_a_planar_task_is_seen_from_above_without_opengl(task):
    made = EnvAdapter(registry.get(f"planar/{task}"))
    state = made.reset(3)["state"]
    picture = made.picture()
    red = np.argwhere((picture == (200, 60, 50)).all(-1)).mean(0)
    x, y = state[:2]
    expected = (0.75 - y) / 1.5 * 320 - 0.5, (x + 0.75) / 1.5 * 320 - 0.5
    assert red == pytest.approx(expected, abs=1.0)
    green = (picture == (70, 160, 90)).all(-1)
    assert green.any()


def test_a_hidden_goal_is_not_in_the_picture():
    made = EnvAdapter(registry.get("planar/reach-hidden"))
    made.reset(3)
    assert not (made.picture() == (70, 160, 90)).all(-1).any()
