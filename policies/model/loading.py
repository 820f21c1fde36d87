"""Policies from the files that they were saved in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from alltrades.data.interface import Interface
from alltrades.data.layout import Layout
from alltrades.envs import registry
from alltrades.errors import UserError
from alltrades.policies.artifact import facts_of, plugins_of
from alltrades.policies.fetched import fetched
from alltrades.policies.model.backbones import BACKBONES
from alltrades.policies.model.encoders import ENCODERS
from alltrades.policies.model.finite import first_unfinite
from alltrades.policies.model.normalizer import Normalizer
from alltrades.policies.model.policy import DiffusionPolicy
from alltrades.policies.model.saving import BOUNDS, FORMAT_VERSION, digest_of
from alltrades.policies.settings import PolicySettings

DESCRIBED = (
    "format_version",
    "settings",
    "environments",
    "encoder",
)  # what a digest covers of policy.json


def load_policy(folder: Path | str, device: str = "cpu") -> DiffusionPolicy:
    """Read a policy artifact, from an address too (see `fetched`). Every number of it is read:
    O(bytes).

    A backbone or encoder of a plugin needs that one: loaded, or named earlier by the user.

    Raises UserError when it is missing, unreadable, changed since it was written, or holds weights
    that are not finite.
    """
    folder = fetched(folder)
    weights = folder / "model.safetensors"
    text = facts_of(folder)
    try:
        version = text["format_version"]
        if version != FORMAT_VERSION:
            raise UserError(
                f"{folder}: policy format {version}; expected {FORMAT_VERSION}; train the policy "
                "again, or use the alltrades that wrote it"
            )
        description = {name: text[name] for name in DESCRIBED}
        grown = _grown(text)
        description |= {"grown": list(grown)} if grown else {}
        sentences = text.get("sentences")
        description |= {"sentences": sentences} if sentences is not None else {}
        promised = text["digest"]
        environments = [Interface.from_json(e) for e in text["environments"]]
        settings = PolicySettings(**text["settings"])
        known = settings.encoder.name in ENCODERS
        if settings.backbone not in BACKBONES or not known:
            registry.load_named_plugins(plugins_of(text), folder)
        normalizer = Normalizer(Layout(environments))
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{folder}: policy.json cannot be read ({error}); expected a trained artifact"
        ) from error
    if not weights.is_file():
        raise UserError(
            f"{folder}: no policy here (model.safetensors is missing); expected a folder with "
            "policy.json and model.safetensors"
        )
    try:
        state = load_file(weights)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{weights}: cannot be read ({error}); expected the weights that were saved with "
            "policy.json; copy the artifact again, or train it again"
        ) from error
    try:
        policy = DiffusionPolicy(
            settings, environments, normalizer, grown, description["encoder"], sentences
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{folder}: policy.json cannot be read ({error}); expected a trained artifact"
        ) from error
    try:
        policy.load_state_dict(state)
    except RuntimeError as error:  # a line for each weight
        first = str(error).splitlines()[1:2] or [str(error)]
        raise UserError(
            f"{weights}: not the weights that policy.json describes ({first[0].strip()}); expected "
            "two files of one artifact; copy it again, or train it again"
        ) from error
    if digest_of(description, state) != promised:
        raise UserError(
            f"{folder}: weights and policy.json do not belong together, or one of them was "
            "changed; expected both as they were written; copy the artifact again, or train it "
            "again"
        )
    broken = first_unfinite(state, BOUNDS)
    if broken is not None:
        raise UserError(
            f"{folder}: '{broken}' is not finite; expected finite weights; train the policy again"
        )
    return policy.to(device).eval()


def _grown(facts: Mapping[str, Any]) -> tuple[int, ...]:
    """How many environments an artifact had before each growth; ValueError where that cannot be."""
    found = tuple(facts.get("grown", ()))
    ends = (0, *found, len(facts["environments"]))
    if not all(isinstance(n, int) for n in found) or any(a >= b for a, b in zip(ends, ends[1:])):
        raise ValueError(f"grown {list(found)} of {ends[-1]} environments")
    return found
