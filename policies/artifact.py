"""What an artifact says of itself, read without its weights; needs neither torch nor simulators."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from alltrades.errors import UserError


def facts_of(artifact: Path) -> dict[str, Any]:
    """What policy.json in a policy's folder says, or the contract beside an exported .onnx file.

    Raises UserError for what is neither.
    """
    file = artifact.with_suffix(".json") if artifact.suffix == ".onnx" else artifact / "policy.json"
    try:
        facts = json.loads(file.read_text())
        _ = [e["id"] for e in facts["environments"]]
    except FileNotFoundError as error:
        raise UserError(
            f"{artifact}: no policy here ({file.name} is missing); expected a policy's folder, or "
            "an exported .onnx file with its contract beside it"
        ) from error
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{file}: cannot be read ({error!r}); expected a policy folder, or an exported .onnx "
            "file with its contract beside it"
        ) from error
    return facts


def environments_of(facts: dict[str, Any]) -> list[str]:
    """Ids of the environments of an artifact, in order."""
    return [str(e["id"]) for e in facts["environments"]]


def plugins_of(facts: dict[str, Any]) -> list[str]:
    """Plugins that were loaded when the policy was trained."""
    return [str(name) for name in facts.get("plugins", [])]
