"""alltrades: one diffusion policy for many environments, from a handful of demonstrations each.

`run`, `load_policy`, `rollout` and `evaluate` are the calls behind the commands of the same names.
"""

from typing import Any

__version__ = "0.1.0"
__all__ = ["evaluate", "load_policy", "rollout", "run"]

_HOMES = {
    "evaluate": "alltrades.envs.rollouts.evaluation",
    "load_policy": "alltrades.policies.model.policy",
    "rollout": "alltrades.envs.rollouts.rollout",
    "run": "alltrades.pipeline.runner",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'alltrades' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
