"""Control steps per second of an environment."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from alltrades.envs.spaces import writer
from alltrades.envs.spec import EnvSpec


def measure_speed(spec: EnvSpec, seconds: float = 1.0) -> float:
    """Rate of `env.step` (observation, reward and info included) over whole episodes on one core,
    in control steps/s.

    Actions are random but held for 8 steps, so that effectors travel and meet objects: contacts are
    part of the cost. Resets are not timed.

    Args:
        spec: any environment.
        seconds: time to spend in steps.
    """
    built = spec.build()
    write = writer(getattr(built, "action_space", None), spec.action_dim)
    rng = np.random.default_rng(0)
    low, high = spec.action.box
    limit = spec.max_steps or 1
    steps, episode, spent = 0, 0, 0.0
    while spent < seconds:
        built.reset(seed=episode)
        held = rng.uniform(low, high, (-(-limit // 8), spec.action_dim)).astype(np.float32)
        actions: Any = np.repeat(held, 8, axis=0)[:limit]  # (max_steps, action_dim)
        actions = actions if write is None else [write(action) for action in actions]
        start = time.perf_counter()
        for action in actions:
            steps += 1
            _, _, terminated, truncated, _ = built.step(action)
            if terminated or truncated:
                break
        spent += time.perf_counter() - start
        episode += 1
    built.close()
    return steps / spent
