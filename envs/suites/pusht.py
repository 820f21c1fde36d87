"""PushT with corner observations (extra `pusht`): push a T onto its goal; 206 published human
demonstrations.

Task, demonstrations and test starts: Chi et al., Diffusion Policy (arXiv 2303.04137); simulator:
the package gym-pusht. The demonstrations are the original environment's seeds 0..205 in order, the
published test starts its seeds 100000 on.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np

from alltrades.data.actions import ActionSpec
from alltrades.data.episode import Episode
from alltrades.data.fields import Field
from alltrades.envs.rendering import Camera, Part
from alltrades.envs.spec import EnvSpec
from alltrades.envs.symmetry import Reflection
from alltrades.errors import UserError

if TYPE_CHECKING:
    from alltrades.data.store import EpisodeStore

ID = "pusht/keypoints-v0"
MAX_STEPS = 300
PIXELS = 96  # side of its picture
SIZE = 512.0  # side of the arena, in the task's units (pixels)
TEST_START = 100_000
# Corners of the T in its own frame, in pixels: bar, then stem. The block's position is the middle
# of the bar's edge.
CORNERS = np.array(
    [[-60.0, 0], [60, 0], [60, 30], [-60, 30], [-15, 30], [15, 30], [15, 120], [-15, 120]]
)  # (8, 2)

NAMES = tuple(
    f"{thing}_{axis}"
    for thing in ("agent", *(f"corner{i}" for i in range(len(CORNERS))))
    for axis in "xy"
)  # (18,)


def observation_from_state(state: np.ndarray) -> np.ndarray:
    """State (N, 5) = agent x, y, block x, y, angle (radians) -> observation (N, 18) f32 = agent x,
    y, 8 corners x, y.

    Corners have no jump where the angle wraps. The environment and the demonstrations both go
    through this function.
    """
    state = np.asarray(state, dtype=np.float64)
    cos, sin = np.cos(state[:, 4, None]), np.sin(state[:, 4, None])  # (N, 1)
    x = state[:, 2, None] + cos * CORNERS[:, 0] - sin * CORNERS[:, 1]  # (N, 8)
    y = state[:, 3, None] + sin * CORNERS[:, 0] + cos * CORNERS[:, 1]  # (N, 8)
    corners = np.stack([x, y], axis=-1).reshape(len(state), 16)
    return np.concatenate([state[:, :2], corners], axis=1).astype(np.float32)


def reflection() -> Reflection:
    """Mirror image about the goal's axis, the anti-diagonal x + y = 512: (x, y) -> (512 - y, 512 -
    x).

    It maps the square arena, the goal and the T (with its left and right corners exchanged) onto
    themselves.
    """
    partner = [int(np.abs(CORNERS - corner * (-1, 1)).sum(1).argmin()) for corner in CORNERS]
    observation = [1, 0, *(2 + 2 * p + k for p in partner for k in (1, 0))]
    return Reflection(
        tuple(observation), (-1.0,) * 18, (SIZE,) * 18, (1, 0), (-1.0, -1.0), (SIZE, SIZE)
    )


def start_of_seed(seed: int) -> np.ndarray:
    """The published start (5,) of a seed. Seeds beyond 32 bits, which RandomState refuses, go in as
    two words.
    """
    rs = np.random.RandomState(seed if seed < 2**32 else [seed & 0xFFFFFFFF, seed >> 32])
    return np.array(
        [
            rs.randint(50, 450),
            rs.randint(50, 450),
            rs.randint(100, 400),
            rs.randint(100, 400),
            rs.randn() * 2 * np.pi - np.pi,
        ]
    )


def published_seed(index: int) -> int:
    """Seed of published test start number `index`."""
    return TEST_START + index


def import_demos(store: EpisodeStore) -> list[Episode]:
    """Episodes of the published store, read from data/state and data/action; episode i has seed i.

    The store records no rewards and no success, and no recorded frame is above the success
    threshold: rewards are 0 and success is False. Raises UserError when the arrays are missing or
    of another size.
    """
    state, action = store.read_array("data/state"), store.read_array("data/action")
    if state.shape[1:] != (5,) or action.shape[1:] != (2,):
        raise UserError(
            f"{store.path}: data/state {state.shape} and data/action {action.shape}; expected "
            "(steps, 5) and (steps, 2), as in the published PushT store"
        )
    observation, episodes, start = observation_from_state(state), [], 0
    for seed, end in enumerate(int(e) for e in store.episode_ends):
        length = end - start
        episodes.append(
            Episode(
                observations={"state": observation[start:end]},
                actions=action[start:end].astype(np.float32),
                rewards=np.zeros(length, np.float32),
                successes=np.zeros(length, bool),
                environment=ID,
                source="demo",
                seed=seed,
                success=False,
                first_success=-1,
                return_=0.0,
            )
        )
        start = end
    return episodes


class PushTEnv(gymnasium.Env):
    """PushT: observation (18,), action = target position (2,) of the agent in [0, 512]; success:
    coverage > 0.95.
    """

    def __init__(self) -> None:
        self.env = _simulator()(obs_type="state")
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (18,), np.float32)
        self.action_space = gymnasium.spaces.Box(0.0, SIZE, (2,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start of `seed`, see `start_of_seed`; without a seed, of a random one."""
        if seed is None:
            seed = int(np.random.SeedSequence().generate_state(1)[0])
        state, _ = self.env.reset(options={"reset_to_state": start_of_seed(seed)})
        return observation_from_state(state[None])[0], {"success": False}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One control step of 0.1 s; reward = clip(coverage / 0.95, 0, 1)."""
        state, reward, _, _, info = self.env.step(action)
        success = bool(info["is_success"])
        return (
            observation_from_state(state[None])[0],
            float(reward),
            success,
            False,
            {"success": success, "coverage": float(info["coverage"])},
        )

    def render(self) -> np.ndarray:
        """(96, 96, 3) uint8: the picture that published policies see; drawn without GL."""
        picture: np.ndarray = self.env._get_img(self.env._draw(), PIXELS, PIXELS)
        return picture

    def place(self, observation: dict[str, np.ndarray]) -> None:
        """Bring agent and block where a state (18,) says, to be drawn."""
        x, y, *corners = observation["state"].astype(float)
        left, right = corners[0:2], corners[2:4]  # ends of the bar's edge
        sides = [(a + b) / 2 for a, b in zip(left, right)]
        agent, block = self.env.agent, self.env.block
        agent.position = x, y
        block.angle = float(np.arctan2(right[1] - left[1], right[0] - left[0]))
        block.position = tuple(sides)
        self.env.space.reindex_shapes_for_body(agent)
        self.env.space.reindex_shapes_for_body(block)

    def trajectory_point(self) -> np.ndarray:
        """(2, 2): agent and block, in pixels."""
        return np.array([self.env.agent.position, self.env.block.position])

    def close(self) -> None:
        self.env.close()


@lru_cache(maxsize=1)
def _simulator() -> type:
    """gym-pusht's environment: same dynamics and rewards at about twice the speed."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    import shapely
    from gym_pusht.envs.pusht import PushTEnv as Package

    class Simulator(Package):  # type: ignore[misc]
        _goal: Any = None

        def _get_coverage(self) -> float:
            # The goal never moves. gym-pusht iterates over a set of shapes, in an order that
            # changes from reset to reset and moves the last bit of the area; the list keeps an
            # episode a function of its seed.
            if self._goal is None:
                self._local = [s.get_vertices() for s in self._block_shapes]
                self._goal = self._geometry(self.get_goal_pose_body(self.goal_pose))
            return self._goal.intersection(self._geometry(self.block)).area / self._goal.area

        def _geometry(self, body: Any) -> Any:
            rings = np.array(
                [[body.local_to_world(v) for v in ring] for ring in self._local]
            )  # (2, 4, 2)
            return shapely.multipolygons(shapely.polygons(rings))

        def _handle_collision(self, arbiter: Any, space: Any, data: Any) -> None:
            # counting contact points costs more than the physics, and nothing here reads the count
            pass

        def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
            # The package's PD control, on floats instead of arrays of two: the same operations in
            # the same order.
            target_x, target_y = float(action[0]), float(action[1])
            agent, k_p, k_v, dt = self.agent, self.k_p, self.k_v, self.dt
            for _ in range(int(1 / (dt * self.control_hz))):
                (x, y), (vx, vy) = agent.position, agent.velocity
                ax, ay = (
                    k_p * (target_x - x) + k_v * (0.0 - vx),
                    k_p * (target_y - y) + k_v * (0.0 - vy),
                )
                agent.velocity = (vx + ax * dt, vy + ay * dt)
                self.space.step(dt)
            coverage = self._get_coverage()
            success = coverage > self.success_threshold
            reward = min(max(coverage / self.success_threshold, 0.0), 1.0)
            return (
                self.get_obs(),
                reward,
                success,
                False,
                {"is_success": success, "coverage": coverage},
            )

    return Simulator


def specs() -> list[tuple[EnvSpec, None]]:
    """The environment; its demonstrations are published, not scripted."""
    return [
        (
            EnvSpec(
                ID,
                PushTEnv,
                {"state": Field.state(18, names=NAMES, units=("px",) * 18)},
                ActionSpec(
                    (0.0, 0.0), (SIZE, SIZE), names=("agent_x", "agent_y"), units=("px", "px")
                ),
                MAX_STEPS,
                control_hz=10.0,
                extra="pusht",
                evaluation_seed=published_seed,
                import_demos=import_demos,
                symmetries=(reflection(),),
                success="info:success",
                cameras={"images.top": Camera.own(PIXELS, PIXELS)},
                parts={"proprioception": Part((0, 1))},
            ),
            None,
        )
    ]


def suites() -> dict[str, list[str]]:
    """PushT is one environment; no suite."""
    return {}
