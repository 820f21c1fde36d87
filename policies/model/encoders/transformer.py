"""Vision networks of the package transformers, such as DINOv2 and SigLIP, from a local folder."""

from __future__ import annotations

import json
from inspect import signature
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from alltrades.data.layout import Slot
from alltrades.errors import MissingExtra, UserError
from alltrades.policies.model.encoders.base import IMAGENET, Colours, MapEncoder, Pretrained

EXPECTED = "the folder of a vision network of transformers (config.json, model.safetensors)"
REMEDY = "save it there with save_pretrained (policy.encoder.weights)"


class VisionTransformer(MapEncoder):
    """The patches of a vision transformer, or the last maps of another vision network, as feature
    maps (see `MapEncoder`).

    Images are resized to whole patches: each side to the nearest multiple of a patch, at most to
    the side that the network was trained with.

    Args:
        config: of the network, as its config.json has it.
        mean, std: of the pixels that it was trained with.
    """

    needs_weights = True

    def __init__(
        self,
        slot: Slot,
        config: dict[str, Any] | None = None,
        mean: tuple[float, ...] = IMAGENET[0],
        std: tuple[float, ...] = IMAGENET[1],
    ) -> None:
        transformers = _package()
        config = dict(config or {})
        own = transformers.AutoConfig.for_model(**config)
        own._attn_implementation = "eager"
        network = transformers.AutoModel.from_config(own).float().eval()
        patch, side = config.get("patch_size", 1), config.get("image_size", 224)
        size = [min(max(patch, round(s / patch) * patch), side) for s in slot.shape[:2]]
        more = {"interpolate_pos_encoding": True}
        more = more if "interpolate_pos_encoding" in signature(network.forward).parameters else {}
        with torch.no_grad():
            found = network(pixel_values=torch.zeros(1, 3, *size), **more).last_hidden_state
        grid = None if found.ndim == 4 else [s // patch for s in size]
        super().__init__(slot, found.shape[1] if grid is None else found.shape[2])
        self.architecture = {"config": config, "mean": list(mean), "std": list(std)}
        self.colours = Colours(slot, tuple(mean), tuple(std))
        self.network, self.size, self.grid, self.more = network, size, grid, more

    def train(self, mode: bool = True) -> VisionTransformer:
        """Training mode, without the network's dropout: rows stay functions of their images."""
        super().train(mode)
        self.network.eval()
        return self

    def maps(self, frames: Tensor) -> Tensor:
        x = self.colours(frames)
        if list(x.shape[2:]) != self.size:
            x = F.interpolate(x, self.size, mode="bilinear", align_corners=False)
        found = self.network(pixel_values=x, **self.more).last_hidden_state
        if self.grid is None:
            return found
        height, width = self.grid
        patches = found[:, -height * width :]  # (N, patches, channels), behind tokens of the whole
        return patches.mT.unflatten(2, (height, width))

    @classmethod
    def pretrained(cls, path: str) -> Pretrained:
        """The vision network in a folder of transformers; of networks of images and text, the one
        of images.
        """
        transformers, folder = _package(), Path(path)
        if not (folder / "config.json").is_file():
            raise UserError(f"{path}: no config.json there; expected {EXPECTED}; {REMEDY}")
        try:
            config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
            config = getattr(config, "vision_config", config)
            network = transformers.AutoModel.from_pretrained(
                folder, config=config, local_files_only=True, use_safetensors=True
            )
        except Exception as error:  # the library's own kinds, and those of files
            said = " ".join(str(error).split())[:120]
            raise UserError(
                f"{path}: cannot be read ({said}); expected {EXPECTED}; {REMEDY}"
            ) from error
        facts = {"config": json.loads(config.to_json_string(use_diff=False))}
        pixels = folder / "preprocessor_config.json"
        if pixels.is_file():
            said = json.loads(pixels.read_text())
            facts |= {
                short: said[f"image_{short}"]
                for short in ("mean", "std")
                if f"image_{short}" in said
            }
        state = {f"network.{k}": v.float() for k, v in network.state_dict().items()}
        return Pretrained(facts, state)


def _package():  # type: ignore[no-untyped-def]
    try:
        import transformers
    except ImportError as error:
        raise MissingExtra(
            "encoder transformer: package transformers is not installed; expected the vision extra",
            "vision",
        ) from error
    return transformers
