"""Policy artifacts as inputs and outputs of stages."""

from __future__ import annotations

import json
from pathlib import Path

from alltrades.errors import UserError


def artifact_files(folder: Path) -> list[Path]:
    """What a policy is saved as."""
    return [folder / "policy.json", folder / "model.safetensors"]


def policy_digest(folder: Path) -> str:
    """Digest of a policy artifact; UserError where there is none."""
    try:
        return json.loads((folder / "policy.json").read_text())["digest"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{folder}: no policy here ({error}); expected a folder with policy.json and "
            "model.safetensors"
        ) from error


def policy_digests(folder: Path) -> dict[str, str]:
    """Digest of an artifact, or of every artifact below a folder."""
    if (folder / "policy.json").exists():
        return {folder.name: policy_digest(folder)}
    return {f.parent.name: policy_digest(f.parent) for f in sorted(folder.glob("*/policy.json"))}


def used_success_signal(path: Path) -> bool:
    """Whether the artifact has seen the simulator's success signal; no for a folder of
    specialists.
    """
    facts = path / "policy.json"
    return facts.exists() and bool(
        json.loads(facts.read_text())["training"].get("used_success_signal", False)
    )
