"""Environments, experts and controllers for the rollout tests; module level, so that workers can
import them.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from alltrades.data.actions import ActionSpec
from alltrades.data.fields import Field, Observation
from alltrades.envs.spec import EnvSpec

Step = tuple[np.ndarray, float, bool, bool, dict[str, Any]]


class Counter(gymnasium.Env):
    """Observation (dim,): [steps so far, seed mod 1000, 0, ...]; succeeds at step `period` + seed
    mod `spread`.
    """

    def __init__(self, dim: int = 3, period: int = 5, spread: int = 4) -> None:
        self.dim, self.period, self.spread = dim, period, spread
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (dim,))
        self.action_space = gymnasium.spaces.Box(-1, 1, (2,))
        self._buffer = np.zeros(dim, np.float32)  # reused from step to step, as some simulators do

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.seed, self.t = int(seed or 0), 0
        return self.observe(), {}

    def step(self, action: np.ndarray) -> Step:
        self.t += 1
        self.trouble()
        return (
            self.observe(),
            0.5 * self.t,
            False,
            False,
            {"success": self.t >= self.period + self.seed % self.spread},
        )

    def observe(self) -> np.ndarray:
        self._buffer[:2] = self.t, self.seed % 1000
        return self._buffer

    def trouble(self) -> None:
        """What goes wrong in a step, in the classes below."""


class Walk(gymnasium.Env):
    """A walk to a goal: observation (4,) place and goal, action (2,) in [-1, 1]; noise from the
    episode's seed.
    """

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (4,))
    action_space = gymnasium.spaces.Box(-1, 1, (2,))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.place, self.goal = self.np_random.uniform(-1, 1, (2, 2))
        return self.observe(), {}

    def step(self, action: np.ndarray) -> Step:
        self.place = self.place + 0.2 * np.asarray(action) + self.np_random.normal(0, 0.03, 2)
        distance = float(np.linalg.norm(self.place - self.goal))
        return (
            self.observe(),
            -distance,
            False,
            False,
            {"success": distance < 0.1, "closeness": -distance},
        )

    def observe(self) -> np.ndarray:
        return np.concatenate([self.place, self.goal]).astype(np.float32)

    def trajectory_point(self) -> np.ndarray:
        return self.place[None]


class Raising(Counter):
    """Raises in step 3 of seed 7."""

    def trouble(self) -> None:
        if self.seed == 7 and self.t == 3:
            raise ZeroDivisionError("the arm came off")


class Dying(Counter):
    """Kills its own process in step 3 of seed 7, as long as there are fewer than `times` marks in
    `folder`.
    """

    def __init__(self, folder: Path, times: int) -> None:
        super().__init__()
        self.folder, self.times = folder, times

    def trouble(self) -> None:
        marks = len(list(self.folder.iterdir()))
        if self.seed == 7 and self.t == 3 and marks < self.times:
            (self.folder / str(marks)).touch()
            os.kill(os.getpid(), signal.SIGKILL)


class Slow(Counter):
    """20 ms a step; every process that builds it leaves its id in `folder`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(period=10_000)
        (folder / str(os.getpid())).touch()

    def trouble(self) -> None:
        time.sleep(0.02)


class Diverging(Counter):
    """Its reward is nan in step 4."""

    def step(self, action: np.ndarray) -> Step:
        observation, reward, *rest = super().step(action)
        return observation, (float("nan") if self.t == 4 else reward), *rest  # type: ignore[return-value]


class Surroundings(Counter):
    """Observation: [torch imported, threads of linear algebra, Ctrl-C ignored, instances built in
    this process].
    """

    built = 0

    def __init__(self) -> None:
        super().__init__(dim=4)
        type(self).built += 1

    def observe(self) -> np.ndarray:
        ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        threads = int(os.environ.get("OMP_NUM_THREADS", "0"))
        return np.array(
            ["torch" in sys.modules, threads, ignored, type(self).built], dtype=np.float32
        )


class LoadsHereOnly:
    """A maker of environments that a worker process cannot unpickle."""

    def __call__(self) -> Counter:
        return Counter()

    def __getstate__(self) -> dict[str, bool]:
        return {"here": True}

    def __setstate__(self, state: dict[str, bool]) -> None:
        if multiprocessing.parent_process() is not None:
            raise ImportError("no module named 'left_at_home'")


def spec(
    make: Any, name: str = "toy/counter", obs_dim: int = 3, max_steps: int = 12, **options: Any
) -> EnvSpec:
    return EnvSpec(
        id=name,
        make=make,
        observation={"state": Field.state(obs_dim)},
        action=ActionSpec((-1.0, -1.0), (1.0, 1.0)),
        max_steps=max_steps,
        **options,
    )


COUNTER = spec(Counter)
LONG = spec(
    partial(Counter, 5, 9, 8), "toy/long", obs_dim=5, max_steps=14
)  # seeds 6 and 7 modulo 8 run out of time
WALK = spec(Walk, "toy/walk", obs_dim=4, max_steps=30)
FAR = spec(Walk, "toy/far", obs_dim=4, max_steps=45, stop_at_success=False)


class Homing:
    """Expert of the walk with a memory: its first action of an episode is drawn from the seed."""

    def __init__(self) -> None:
        self.first: np.ndarray | None = None

    def reset(self, seed: int) -> None:
        self.first = np.random.default_rng(seed).uniform(-1, 1, 2)

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        first, self.first = self.first, None
        return first if first is not None else 5 * (observation[2:] - observation[:2])


class Clumsy:
    """An expert that raises at its third answer."""

    answers = 0

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        self.answers += 1
        if self.answers == 3:
            raise KeyError("gripper")
        return np.zeros(2)


class NoisyController:
    """Heads for the goal, with noise of the episode's seed; notes who asks together, and with how
    many threads.
    """

    def __init__(self, lanes: int = 4, n_action_steps: int = 3) -> None:
        self.lanes, self.n_action_steps = lanes, n_action_steps
        self.generators: dict[int, np.random.Generator] = {}
        self.begun: list[tuple[int, str, int]] = []
        self.frames: list[dict[int, Observation]] = []
        self.threads: set[int] = set()

    def begin(self, lane: int, environment: str, seed: int) -> None:
        self.begun.append((lane, environment, seed))
        self.generators[lane] = np.random.default_rng(seed)

    def plan(self, frames: Mapping[int, Observation]) -> dict[int, np.ndarray]:
        import torch

        self.threads.add(torch.get_num_threads())
        self.frames.append(dict(frames))
        return {lane: self._chunk(lane, new["state"][-1]) for lane, new in frames.items()}

    def _chunk(self, lane: int, last: np.ndarray) -> np.ndarray:
        heading = last[2:4] - last[:2] if len(last) == 4 else np.zeros(2)
        noise = self.generators[lane].normal(
            0, 1, (self.n_action_steps, 2)
        )  # some of it leaves the box
        return (3 * heading + noise).astype(np.float32)
