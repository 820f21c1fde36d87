"""alltrades: one diffusion policy for many environments, from a handful of demonstrations each.

The public names, each imported when it is first asked for: `import alltrades` costs nothing, and a
robot's computer that asks for `OnnxPolicy` needs no PyTorch. `run`, `load_policy`, `rollout` and
`evaluate` are the calls behind the commands of the same names. Editors and type checkers read the
names in `__init__.pyi`.
"""

from typing import Any

__version__ = "0.1.0"
__all__ = [
    "ActionSpec",
    "Controller",
    "EnvSpec",
    "Episode",
    "EpisodeStore",
    "Field",
    "OnnxPolicy",
    "PolicyClient",
    "RealTimeController",
    "RemotePolicy",
    "RunSettings",
    "UserError",
    "evaluate",
    "load_policy",
    "register",
    "rollout",
    "run",
]

_HOMES = {
    "ActionSpec": "alltrades.data.actions",
    "Controller": "alltrades.policies.control.controller",
    "EnvSpec": "alltrades.envs.spec",
    "Episode": "alltrades.data.episode",
    "EpisodeStore": "alltrades.data.store",
    "Field": "alltrades.data.fields",
    "OnnxPolicy": "alltrades.policies.onnx.onnx_policy",
    "PolicyClient": "alltrades.policies.client.client",
    "RealTimeController": "alltrades.policies.control.realtime",
    "RemotePolicy": "alltrades.policies.client.remote",
    "RunSettings": "alltrades.settings.run",
    "UserError": "alltrades.errors",
    "evaluate": "alltrades.envs.rollouts.evaluation",
    "load_policy": "alltrades.policies.model.loading",
    "register": "alltrades.envs.registry",
    "rollout": "alltrades.envs.rollouts.rollout",
    "run": "alltrades.pipeline.runner",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'alltrades' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
