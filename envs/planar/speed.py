"""Control steps per second of the planar tasks: `python -m alltrades.envs.planar.speed`."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

import numpy as np

from alltrades.data.errors import UserError, nearest
from alltrades.envs.planar.registration import specs
from alltrades.envs.spec import EnvSpec


def measure_speed(env: str | EnvSpec, seconds: float = 1.0) -> float:
    """Rate of `env.step` (observation, reward and info included) over whole episodes on one core, in control steps/s.

    Actions are random but held for 8 steps, so that effectors travel and meet objects: contacts are part of the cost. Resets
    are not timed.

    Args:
        env: id of a planar environment, or any specification.
        seconds: time to spend in steps.

    Raises UserError for an unknown id.
    """
    spec = env if isinstance(env, EnvSpec) else _find(env)
    built = spec.make()
    rng = np.random.default_rng(0)
    low, high = np.array(spec.action_low), np.array(spec.action_high)
    steps, episode, spent = 0, 0, 0.0
    while spent < seconds:
        built.reset(seed=episode)
        held = rng.uniform(low, high, (-(-spec.max_steps // 8), spec.action_dim)).astype(np.float32)
        actions = np.repeat(held, 8, axis=0)[:spec.max_steps]  # (max_steps, action_dim)
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


def _find(env_id: str) -> EnvSpec:
    known = {spec.id: spec for spec, _ in specs()}
    if env_id not in known:
        raise UserError(f"no planar environment '{env_id}'{nearest(env_id, list(known))}; expected one of {', '.join(known)}")
    return known[env_id]


def main(names: Sequence[str] = ()) -> int:
    """Print one line per environment, all of the family by default; returns the exit code."""
    try:
        for env_id in names or [spec.id for spec, _ in specs()]:
            print(f"{env_id:24s} {measure_speed(env_id):>10,.0f} control steps/s")
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
