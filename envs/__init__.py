"""Environments: specifications, registry, adapters, rollouts and evaluation."""

from alltrades.data.actions import ActionSpec
from alltrades.envs.registry import register, register_suite
from alltrades.envs.spec import EnvSpec

__all__ = ["ActionSpec", "EnvSpec", "register", "register_suite"]
