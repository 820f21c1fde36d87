"""Weights of encoders that were trained before: saved by themselves, and taken into a policy."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from alltrades.errors import UserError
from alltrades.policies.artifact import facts_of
from alltrades.policies.model.encoders import ENCODERS
from alltrades.policies.settings import EncoderSettings, PolicySettings
from alltrades.system.files import file_digest, replacing
from alltrades.system.reading import read_mapping, write_sealed
from alltrades.system.tensors import read_tensors

INDEX, TENSORS = "encoder.json", "encoder.safetensors"
EXPECTED = "an encoder that alltrades wrote"
REMEDY = "copy it again, or train it again"
OF_POLICY = "conditioner.encoders."  # how a policy's tensors of encoders are called
KNOWN = "sha256:"  # begins what stands for the weights in a policy that has them


@dataclass(frozen=True)
class EncoderWeights:
    """The encoders of some cameras.

    Attributes:
        name: of the kind of encoder.
        architecture: of all of them (see `Encoder`).
        encoders: weights by name, of each by the name that a policy has for it (see `Conditioner`);
            one of another project, which fits any camera, is called "".
    """

    name: str
    architecture: Mapping[str, Any]
    encoders: Mapping[str, Mapping[str, Tensor]]

    @classmethod
    def of(cls, name: str, encoders: Mapping[str, nn.Module]) -> EncoderWeights:
        """Those of modules, such as `policy.conditioner.encoders` of the kind `name`."""
        architectures = [getattr(module, "architecture", {}) for module in encoders.values()]
        return cls(
            name,
            next(filter(None, architectures), {}),
            {k: dict(module.state_dict()) for k, module in encoders.items()},
        )

    # ---- files -----------------------------------------------------------------------------------
    def save(self, folder: Path | str, extra: Mapping[str, Any] | None = None) -> Path:
        """Write encoder.safetensors and encoder.json, with the digest of the first and, under
        "training", what `extra` says.
        """
        folder = Path(folder)
        tensors = {f"{k}.{n}": v for k, own in self.encoders.items() for n, v in own.items()}
        with replacing(folder / TENSORS) as partial:
            save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, partial)
        facts = {
            "encoder": self.name,
            "architecture": dict(self.architecture),
            "sha256": file_digest(folder / TENSORS),
            "training": dict(extra or {}),
        }
        write_sealed(folder / INDEX, facts)
        return folder

    @classmethod
    def load(cls, path: str, name: str) -> EncoderWeights:
        """Those that a setting names: of a folder that `save` wrote, of a policy's folder, or of
        another project, where the kind of encoder reads its files.

        Args:
            name: of the kind of encoder that is to have them.

        Raises UserError for what is not there, cannot be read, or is of another kind.
        """
        folder = Path(path)
        if (folder / INDEX).is_file():
            facts = read_mapping(folder / INDEX, EXPECTED, REMEDY)
            tensors = read_tensors(
                folder / TENSORS, EXPECTED, REMEDY, digest=str(facts.get("sha256")), device="cpu"
            )
            found, architecture = facts.get("encoder"), facts.get("architecture", {})
        elif (folder / "policy.json").is_file():
            facts = facts_of(folder)
            settings = facts.get("settings", {}).get("encoder")
            found = settings.get("name") if isinstance(settings, dict) else settings
            architecture = facts.get("encoder", {})
            whole = read_tensors(
                folder / "model.safetensors", "a policy's weights", REMEDY, device="cpu"
            )
            tensors = {
                k.removeprefix(OF_POLICY): v for k, v in whole.items() if k.startswith(OF_POLICY)
            }
        else:
            own = ENCODERS.get(name).pretrained(path)
            return cls(name, own.architecture, {"": own.state})
        if found != name:
            raise UserError(
                f"{path}: encoders of kind '{found}'; expected '{name}'; set policy.encoder.name: "
                f"{found}, or give other weights"
            )
        encoders: dict[str, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            module, _, parameter = key.partition(".")
            encoders.setdefault(module, {})[parameter] = value
        return cls(name, architecture, encoders)

    # ---- use -------------------------------------------------------------------------------------
    @torch.no_grad()
    def into(self, encoders: Mapping[str, nn.Module], cameras: Mapping[str, str]) -> None:
        """Overwrite the weights of a policy's encoders of images.

        An encoder takes those of its own name, or the only ones that there are.

        Args:
            cameras: name of the encoder of every slot of images.

        Raises UserError for a camera of which there are none, or of another size.
        """
        images = {k: v for k, v in self.encoders.items() if "@" in k or not k}
        for module in dict.fromkeys(cameras.values()):
            own = images.get(module)
            if own is None and len(images) == 1:
                (own,) = images.values()
            if own is None:
                raise UserError(
                    f"policy.encoder.weights: none for camera '{module}'; they have "
                    f"{', '.join(images) or 'no images'}; expected weights of that camera, or of "
                    "one alone; name the cameras that they are of (policy.observe)"
                )
            there = encoders[module].state_dict()
            own = {k: v for k, v in own.items() if k in there or images.keys() != {""}}
            own |= {k: v for k, v in there.items() if k == "sharpness" and k not in own}
            wrong = sorted(own.keys() ^ there.keys()) + [
                k for k in own if k in there and own[k].shape != there[k].shape
            ]
            if wrong:
                raise UserError(
                    f"policy.encoder.weights: not those of an encoder '{self.name}' of camera "
                    f"'{module}' ('{wrong[0]}' differs); expected weights for images of its size; "
                    "give others, or resize the images"
                )
            encoders[module].load_state_dict(own)

    def digest(self) -> str:
        """Hash of kind, architecture and weights. O(bytes)."""
        h = hashlib.sha256(json.dumps([self.name, self.architecture], sort_keys=True).encode())
        for key, own in sorted(self.encoders.items()):
            for name, value in sorted(own.items()):
                h.update(f"{key}.{name}".encode())
                h.update(value.detach().cpu().contiguous().numpy().data)
        return KNOWN + h.hexdigest()[:16]


def initial_weights(settings: EncoderSettings) -> EncoderWeights | None:
    """The weights that new encoders begin with; None for fresh ones.

    Raises UserError where a kind of encoder is of no use without, and see `EncoderWeights.load`.
    """
    if settings.weights is not None:
        return EncoderWeights.load(settings.weights, settings.name)
    if ENCODERS.get(settings.name).needs_weights:
        raise UserError(
            f"policy.encoder.name = {settings.name} without weights; expected pretrained ones; "
            "give policy.encoder.weights"
        )
    return None


def determining(settings: PolicySettings) -> dict[str, Any]:
    """What a policy of these settings depends on: the weights of its encoder by their digest."""
    facts = settings.model_dump(mode="json")
    weights = initial_weights(settings.encoder)
    facts["encoder"]["weights"] = None if weights is None else weights.digest()
    return facts
