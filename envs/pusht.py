"""PushT (extra `pusht`): state observations shared by simulator and human demonstrations, and the published test starts."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from alltrades.data.episode import Episode
from alltrades.data.errors import UserError
from alltrades.envs.spec import EnvSpec

ID = "pusht/keypoints-v0"
TEST_START = 100_000  # the published test start i is drawn from seed 100000 + i
# corners of the T in its own frame, in pixels: the bar, then the stem
CORNERS = np.array([[-60, 30], [60, 30], [60, 0], [-60, 0], [-15, 30], [-15, 120], [15, 120], [15, 30]], dtype=np.float64)


def observation_from_state(state: np.ndarray) -> np.ndarray:
    """State (N, 5) of agent x y, block x y, block angle (rad) -> observation (N, 18): agent and the 8 corners, in pixels.

    Corners rather than the angle, which wraps.
    """
    state = np.asarray(state, dtype=np.float64)
    c, s = np.cos(state[:, 4]), np.sin(state[:, 4])
    x = c[:, None] * CORNERS[:, 0] - s[:, None] * CORNERS[:, 1] + state[:, 2:3]  # (N, 8)
    y = s[:, None] * CORNERS[:, 0] + c[:, None] * CORNERS[:, 1] + state[:, 3:4]
    return np.concatenate([state[:, :2], np.stack([x, y], axis=-1).reshape(len(state), 16)], axis=1).astype(np.float32)


def published_seed(i: int) -> int:
    """Seed of the published test start i."""
    return TEST_START + i


def start_of_seed(seed: int) -> np.ndarray:
    """State (5,) that an episode with this seed starts from: the published formula, for any seed."""
    rs = np.random.RandomState(seed if seed < 2**32 else [seed & 0xFFFFFFFF, seed >> 32])
    return np.array([rs.randint(50, 450), rs.randint(50, 450), rs.randint(100, 400), rs.randint(100, 400),
                     rs.randn() * 2 * np.pi - np.pi])


class PushTEnv(gymnasium.Env):
    """gym-pusht with state observations (18,) and target positions (2,) in [0, 512] as actions, 10 Hz.

    reward = clip(coverage / 0.95, 0, 1); success where coverage > 0.95.
    """

    def __init__(self) -> None:
        from gym_pusht.envs.pusht import PushTEnv as Simulator
        from gym_pusht.envs.pusht import pymunk_to_shapely

        class Fast(Simulator):
            """The goal does not move: its polygon is built once an episode instead of twice a step."""

            def _get_coverage(self) -> float:
                if getattr(self, "_goal_of", None) is not self.block:
                    body = self.get_goal_pose_body(self.goal_pose)
                    self._goal, self._goal_of = pymunk_to_shapely(body, self.block.shapes), self.block
                block = pymunk_to_shapely(self.block, self.block.shapes)
                return self._goal.intersection(block).area / self._goal.area

        self.env = Fast(obs_type="state", render_mode="rgb_array")
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (18,), np.float32)
        self.action_space = gymnasium.spaces.Box(0.0, 512.0, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Start of `seed` by the published formula."""
        state = start_of_seed(0 if seed is None else seed)
        observation, _ = self.env.reset(options={"reset_to_state": state})
        return observation_from_state(observation[None])[0], {"success": False}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        observation, reward, _, _, info = self.env.step(np.asarray(action, dtype=np.float64))
        success = bool(info["is_success"])
        return observation_from_state(observation[None])[0], float(reward), success, False, {
            "success": success, "coverage": float(info["coverage"])}

    def trajectory_point(self) -> np.ndarray:
        """(2, 2): agent and block, in pixels."""
        return np.array([self.env.agent.position, self.env.block.position], dtype=np.float32)

    def close(self) -> None:
        self.env.close()


def import_demos(store: Any) -> list[Episode]:
    """Episodes of the published human demonstrations (Zarr with data/state (S, 5) and data/action (S, 2)).

    Their rewards and success were not recorded: rewards are 0, success is False. Episode i was started from seed i.
    Raises UserError for a store of another layout.
    """
    state, action, ends = store.read_array("data/state"), store.read_array("data/action"), store.episode_ends
    if state.ndim != 2 or state.shape[1] != 5 or action.shape != (len(state), 2):
        raise UserError(f"data/state {state.shape} and data/action {action.shape}; expected (steps, 5) and (steps, 2) as in the "
                        "published PushT demonstrations")
    observation = observation_from_state(state)
    out = []
    for i, (start, end) in enumerate(zip(np.concatenate([[0], ends[:-1]]), ends)):
        n = int(end - start)
        out.append(Episode({"observation": observation[start:end]}, action[start:end].astype(np.float32), np.zeros(n, np.float32),
                           np.zeros(n, bool), ID, "human", i, False, -1, 0.0))
    return out


def specs() -> list[tuple[EnvSpec, None]]:
    """PushT has human demonstrations and no scripted expert."""
    return [(EnvSpec(ID, PushTEnv, 18, 2, (0.0, 0.0), (512.0, 512.0), 300, control_hz=10.0, extra="pusht",
                     evaluation_seed=published_seed, import_demos=import_demos), None)]
