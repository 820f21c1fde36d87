"""Contexts of stages without a run around them."""

from collections.abc import Sequence

from alltrades.envs.rollouts.crew import Crew
from alltrades.envs.spec import EnvSpec
from alltrades.pipeline.beside import Beside
from alltrades.pipeline.context import Context
from alltrades.pipeline.manifest import Manifest
from alltrades.settings.rollouts import RolloutSettings
from alltrades.settings.run import RunSettings


def context_of(
    specs: Sequence[EnvSpec],
    rollout: RolloutSettings | None = None,
    manifest: Manifest | None = None,
    settings: RunSettings | None = None,
) -> Context:
    """Stages run whenever they are called, unless there is a manifest."""
    settings = settings or RunSettings(rollout=rollout or RolloutSettings())
    crew = Crew(settings.rollout.worker_count())
    return Context(settings, tuple(specs), {}, manifest, crew, Beside(1))
