"""A run in small."""

from alltrades.envs import registry
from alltrades.settings.load import load_settings
from alltrades.settings.run import RunSettings

SMALL = [
    "--tracking.wandb",
    "disabled",
    "--no-report",
    "--rollout.workers",
    "0",
    "--rollout.timeout",
    "0",
    "--rollout.lanes",
    "8",
    "--policy.width",
    "64",
    "--specialist.width",
    "32",
]
SPECS = registry.resolve(["planar/reach", "planar/push"])


def settings(*more: str) -> RunSettings:
    return load_settings(
        RunSettings, defaults_file="quickstart_paper", small=True, overrides=[*SMALL, *more]
    )[0]
