"""Environments: specifications, registry, adapters, rollouts and evaluation."""

from alltrades.envs.registry import register, register_suite
from alltrades.envs.spec import EnvSpec

__all__ = ["EnvSpec", "register", "register_suite"]
