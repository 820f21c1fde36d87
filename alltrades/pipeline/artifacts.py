"""Policy artifacts as inputs and outputs of stages."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from alltrades.envs.rollouts.evaluation import CHOOSES, CONDITIONS, ENDS, FILTERS
from alltrades.errors import UserError
from alltrades.policies.artifact import facts_of


def artifact_files(folder: Path) -> list[Path]:
    """What a policy is saved as."""
    return [folder / "policy.json", folder / "model.safetensors"]


def policy_digest(folder: Path) -> str:
    """Digest of a policy artifact; UserError where there is none."""
    digest = facts_of(folder).get("digest")
    if not isinstance(digest, str):
        raise UserError(
            f"{folder}: no policy here (policy.json has no digest); expected a folder with "
            "policy.json and model.safetensors"
        )
    return digest


def policy_digests(folder: Path) -> dict[str, str]:
    """Digest of an artifact, or of every artifact below a folder."""
    if (folder / "policy.json").exists():
        return {folder.name: policy_digest(folder)}
    return {f.parent.name: policy_digest(f.parent) for f in sorted(folder.glob("*/policy.json"))}


def success_uses(path: Path) -> tuple[str, ...]:
    """How the simulator's success signal reached the artifact (see `Evaluation`); none for a folder
    of specialists.
    """
    training = training_of(path)
    before = (FILTERS,) if training.get("used_success_signal", False) else ()
    return tuple(training.get("success_uses", before))


def said_uses(uses: Iterable[str]) -> dict[str, Any]:
    """The facts of an artifact that say so."""
    found = [use for use in (ENDS, FILTERS, CONDITIONS, CHOOSES) if use in uses]
    return {"used_success_signal": bool(found), "success_uses": found}


def training_of(path: Path) -> dict[str, Any]:
    """What an artifact says of its training; nothing of a folder of specialists."""
    found = facts_of(path).get("training") if (path / "policy.json").exists() else None
    return found if isinstance(found, dict) else {}
