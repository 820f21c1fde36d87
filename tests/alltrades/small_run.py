"""A run in small, and everything of it that must come out the same."""

from pathlib import Path

from alltrades.data.store import EpisodeStore
from alltrades.envs import registry
from alltrades.settings.load import load_settings
from alltrades.settings.run import RunSettings

SMALL = [
    "--tracking.wandb",
    "disabled",
    "--no-report",
    "--rollout.workers",
    "0",
    "--rollout.lanes",
    "8",
]
SPECS = registry.resolve(["planar/reach", "planar/push"])


def settings(*more: str) -> RunSettings:
    return load_settings(
        RunSettings, defaults_file="quickstart", small=True, overrides=[*SMALL, *more]
    )[0]


def results(folder: Path) -> dict[str, bytes | str]:
    """Everything that a killed run must reproduce: networks, evaluation, stores, weights."""
    out: dict[str, bytes | str] = {}
    for pattern in (
        "policies/**/*.safetensors",
        "policies/**/policy.json",
        "evaluation/*.json",
        "weights/**/*",
        "comparison.json",
        "advice.json",
    ):
        for path in sorted(folder.glob(pattern)):
            if path.is_file():
                out[str(path.relative_to(folder))] = path.read_bytes()
    for path in sorted(folder.glob("stores/*.zarr")):
        out[path.name] = EpisodeStore.open(path).digest()
    return out


def differing(a: dict[str, bytes | str], b: dict[str, bytes | str]) -> list[str]:
    """Names that one lacks or whose content differs. Comparing the contents themselves lets pytest
    diff megabytes.
    """
    return sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))
