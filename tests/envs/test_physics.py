"""Physics that diverged ends its episode as failed; looking changes nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest

from alltrades.envs import registry
from alltrades.envs.adapter import EnvAdapter, EnvironmentFailure
from alltrades.envs.boundary.physics import Physics
from tests.envs.toys import Countdown, toy_spec

BALL = """
<mujoco><option gravity="0 0 0"/><worldbody><body><joint name="x" type="slide" axis="1 0 0"/>
<geom size="0.1" mass="1"/></body></worldbody><actuator><motor joint="x"/></actuator></mujoco>
"""


class Ball(gymnasium.Env):
    """A ball on a rail, of which something breaks in its third step; it shows finite numbers."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, breaks: str = "", dirty: bool = False) -> None:
        self.model = mujoco.MjModel.from_xml_string(BALL)
        self.data = mujoco.MjData(self.model)
        self.breaks, self.dirty = breaks, dirty

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        if self.dirty:  # counters stay as they are
            self.data.qpos[:], self.data.qvel[:], self.data.time = 0.0, 0.0, 0.0
        else:
            mujoco.mj_resetData(self.model, self.data)
        self.steps = 0
        return self.look(), {}

    def look(self) -> np.ndarray:
        return np.nan_to_num(np.concatenate([self.data.qpos, self.data.qvel])).astype(np.float32)

    def step(self, action: np.ndarray) -> Any:
        self.steps += 1
        self.data.ctrl[:] = action
        if self.steps == 3:
            if self.breaks in ("qpos", "qvel", "ctrl"):
                getattr(self.data, self.breaks)[:] = np.nan
            elif self.breaks == "qacc":
                self.data.qfrc_applied[:] = 1e300
            elif self.breaks == "reset":
                mujoco.mj_resetData(self.model, self.data)
        mujoco.mj_step(self.model, self.data, 5)
        return self.look(), 0.0, False, False, {"success": False}


class Around(gymnasium.Wrapper):
    """A wrapper, as people write them."""


def run(adapter: EnvAdapter, seed: int = 0) -> list[np.ndarray]:
    seen = [adapter.reset(seed)["state"]]
    for _ in range(6):
        seen.append(adapter.step(np.ones(1)).observation["state"])
    return seen


@pytest.fixture(autouse=True)
def _log_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes MUJOCO_LOG.TXT


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(
    "breaks, found",
    [("qpos", "QPOS"), ("qvel", "QVEL"), ("ctrl", "CTRL"), ("qacc", "QACC")],
)
def test_mujocos_warnings_of_bad_numbers_are_failures_that_diverged(breaks, found, wrapped):
    def make() -> gymnasium.Env:
        return Around(Ball(breaks)) if wrapped else Ball(breaks)

    adapter = EnvAdapter(toy_spec(make))
    with pytest.raises(EnvironmentFailure, match=f"MuJoCo found a bad number in {found} at") as e:
        run(adapter, 4)
    assert (e.value.kind, e.value.seed, e.value.step) == ("diverged", 4, 2)


def test_a_second_reset_to_the_first_state_is_seen_though_its_counter_is_as_before():
    ball = Ball("qpos", dirty=True)
    ball.reset()
    for _ in range(3):
        ball.step(np.zeros(1))
    ball.reset()
    physics = Physics(ball)
    said = []
    for _ in range(3):
        ball.step(np.zeros(1))
        said.append(physics.diverged())
    assert said[:2] == [None, None] and "began again from its first state" in str(said[2])


def test_what_went_wrong_in_the_episode_before_is_not_counted():
    ball = Ball(dirty=True)
    ball.reset()
    ball.data.qpos[:] = np.nan
    ball.step(np.zeros(1))
    assert ball.data.warning[mujoco.mjtWarning.mjWARN_BADQPOS].number == 1
    run(EnvAdapter(toy_spec(lambda: ball)))


def test_an_environment_that_resets_itself_within_a_step_did_not_diverge():
    run(EnvAdapter(toy_spec(lambda: Ball("reset"))))


def test_looking_at_physics_does_not_change_it():
    plain, seen = Ball(), Ball()
    plain.reset()
    seen.reset()
    physics = Physics(seen)
    for _ in range(20):
        plain.step(np.ones(1))
        seen.step(np.ones(1))
        assert physics.diverged() is None
    size = mujoco.mj_stateSize(plain.model, mujoco.mjtState.mjSTATE_INTEGRATION)
    states = np.zeros((2, size))
    for state, ball in zip(states, (plain, seen)):
        mujoco.mj_getState(ball.model, ball.data, state, mujoco.mjtState.mjSTATE_INTEGRATION)
    assert np.array_equal(*states)


def test_simulations_are_found_behind_wrappers_and_other_attributes():
    ball = Ball("qpos")
    ball.reset()
    physics = SimpleNamespace(data=SimpleNamespace(ptr=ball.data))  # as dm_control keeps it
    found = [Physics(e) for e in (SimpleNamespace(env=SimpleNamespace(physics=physics)), ball)]
    for _ in range(3):
        ball.step(np.zeros(1))
    assert all("QPOS" in str(p.diverged()) for p in found)
    assert Physics(Countdown()).diverged() is None


def test_planar_physics_that_diverges_fails_its_episode(monkeypatch):
    spec = registry.get("planar/push")
    adapter = EnvAdapter(spec)
    adapter.reset(3)
    adapter.step(np.zeros(2))
    adapter._env.unwrapped.data.qvel[:] = 1e12
    with pytest.raises(EnvironmentFailure, match="'planar/push' failed at step 1 .*QVEL"):
        adapter.step(np.zeros(2))
    adapter.reset(3)
    adapter.step(np.zeros(2))


class Growing(Countdown):
    """Its observation grows a thousandfold in every step."""

    def reset(self, **facts: Any) -> Any:
        self.x, self.base = 1.0, 0.0
        return np.array([self.x, 1e18]), {}

    def step(self, action: np.ndarray) -> Any:
        self.x *= 1000.0
        return np.array([self.x, 1e18]), 0.0, False, False, {}


def test_a_state_that_explodes_while_it_is_still_finite_diverged():
    adapter = EnvAdapter(toy_spec(Growing))
    with pytest.raises(EnvironmentFailure, match=r"'state' grew from 1 to 1e\+15 at entry 0") as e:
        run(adapter)
    assert e.value.kind == "diverged" and e.value.step == 4
