"""What an artifact says of itself, read without its weights; needs neither torch nor simulators."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from alltrades.errors import UserError
from alltrades.policies.fetched import fetched
from alltrades.system.reading import read_mapping

DIGEST = "digest"  # of a contract, of everything else in it


def contract_digest(facts: Mapping[str, Any]) -> str:
    """Hash of what a contract says, besides this hash."""
    said = {key: value for key, value in facts.items() if key != DIGEST}
    return sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def facts_of(artifact: Path) -> dict[str, Any]:
    """What policy.json in a policy's folder says, or the contract beside an exported .onnx file.

    Raises UserError for what is neither, and for what was changed since it was written.
    """
    artifact = fetched(artifact)
    graph = artifact.suffix == ".onnx"
    file = artifact.with_suffix(".json") if graph else artifact / "policy.json"
    again = "export the policy again" if graph else "copy the artifact again, or train it again"
    if not file.exists():
        raise UserError(
            f"{artifact}: no policy here ({file.name} is missing); expected a policy's folder with "
            "policy.json and model.safetensors, or an exported .onnx file with its contract beside "
            "it"
        )
    expected = "the contract that `alltrades export` wrote" if graph else "that of a trained policy"
    facts = read_mapping(file, expected, again)
    try:
        _ = [e["id"] for e in facts["environments"]]
        changed = graph and facts[DIGEST] != contract_digest(facts)
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{file}: cannot be read ({error!r}); expected {expected}; {again}"
        ) from error
    if changed:
        raise UserError(
            f"{file}: cannot be read (it was changed after it was written: its digest differs); "
            f"expected {expected}; {again}"
        )
    return facts


def environments_of(facts: dict[str, Any]) -> list[str]:
    """Ids of the environments of an artifact, in order."""
    return [str(e["id"]) for e in facts["environments"]]


def plugins_of(facts: dict[str, Any]) -> list[str]:
    """Plugins that were loaded when the policy was trained."""
    return [str(name) for name in facts.get("plugins", [])]
