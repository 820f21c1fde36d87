"""Control steps per second of an environment."""

from __future__ import annotations

import time

import numpy as np

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
    built = spec.make()
    rng = np.random.default_rng(0)
    low, high = np.array(spec.action.low), np.array(spec.action.high)
    steps, episode, spent = 0, 0, 0.0
    while spent < seconds:
        built.reset(seed=episode)
        held = rng.uniform(low, high, (-(-spec.max_steps // 8), spec.action_dim)).astype(np.float32)
        actions = np.repeat(held, 8, axis=0)[: spec.max_steps]  # (max_steps, action_dim)
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
