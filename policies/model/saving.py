"""How a policy is written; see `loading.py` for how it is read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from alltrades.envs import registry
from alltrades.errors import UserError
from alltrades.policies.model.finite import first_unfinite
from alltrades.system.files import replacing
from alltrades.system.reading import write_sealed

FORMAT_VERSION = 5
BOUNDS = ("normalizer.action_low", "normalizer.action_high")  # infinite where nothing is clipped


def digest_of(description: Mapping[str, Any], state: Mapping[str, Tensor]) -> str:
    """Hash of a policy's description and of its weights. O(bytes)."""
    h = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name, value in sorted(state.items()):
        h.update(name.encode())
        h.update(value.detach().cpu().contiguous().numpy().data)
    return h.hexdigest()[:16]


def write_policy(
    folder: Path,
    description: Mapping[str, Any],
    state: Mapping[str, Tensor],
    facts: Mapping[str, Any],
) -> None:
    """Write model.safetensors and policy.json, which names the plugins that are loaded.

    Args:
        description: what the digest covers beside the weights. facts: what it does not.

    Raises UserError where a weight is not finite.
    """
    state = {k: v.detach().cpu().contiguous() for k, v in state.items()}
    broken = first_unfinite(state, BOUNDS)
    if broken is not None:
        raise UserError(
            f"{folder}: '{broken}' of this policy is not finite; expected finite numbers; it "
            "was not written: train it again, with a lower learning rate"
        )
    with replacing(folder / "model.safetensors") as partial:
        save_file(state, partial)
    own = {"digest": digest_of(description, state), "plugins": registry.loaded_plugins()}
    write_sealed(folder / "policy.json", {**description, **own, **facts})
