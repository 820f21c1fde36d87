"""What all encoders have in common: from the frames of a slot, each by itself, to vectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from alltrades.data.fields import Kind
from alltrades.data.layout import Slot
from alltrades.errors import UserError
from alltrades.policies.model.checked import shaped

SHARPNESS = 4.0  # first factor of what spatial softmax is taken of


@dataclass(frozen=True)
class Pretrained:
    """Weights that somebody else trained.

    Attributes:
        architecture: keyword arguments of the encoder that has them (see `Encoder`).
        state: its weights by name.
    """

    architecture: Mapping[str, Any]
    state: Mapping[str, Tensor]


class Encoder(nn.Module):
    """Base of the encoders of images and text.

    One is made for every slot, or for all cameras of one shape. It sees one frame at a time: its
    features can be kept, and the same weights serve policies of any history.

    Args:
        slot: what it sees.

    An encoder that takes further arguments keeps them in `architecture`, plain JSON data with which
    it is made again when a policy is loaded.

    Attributes:
        kinds: of the slots that it can see.
        dim: numbers that it gives of a frame, set by each encoder.
        channels: of its last feature maps, which a text may modulate; 0 where it has none.
        needs_weights: whether it is of no use without pretrained ones.

    A row of the output depends on the same row of the input only, bit for bit at a fixed batch
    size: no encoder may normalise over the batch.
    """

    kinds: ClassVar[tuple[Kind, ...]] = ("image",)
    needs_weights: ClassVar[bool] = False
    dim: int
    channels: int = 0

    def __init__(self, slot: Slot) -> None:
        super().__init__()
        self.shape = slot.shape
        self.architecture: dict[str, Any] = {}

    def forward(self, frames: Tensor, condition: Tensor | None = None) -> Tensor:
        """(N, *shape), pixels in [-1, 1] -> (N, dim).

        Args:
            condition: (N, 2 * channels), factors less one and offsets of the last feature maps;
                only where there are channels.
        """
        raise NotImplementedError

    @classmethod
    def pretrained(cls, path: str) -> Pretrained:
        """Weights of another project in a file or folder. Raises UserError for what has none of
        this encoder.
        """
        raise UserError(
            f"{path}: no weights of this encoder; expected a folder with an encoder or a policy "
            "that alltrades wrote; of another project's networks, name the encoder that has them "
            "(policy.encoder.name)"
        )


class MapEncoder(Encoder):
    """Base of encoders that end in feature maps: of every channel they tell where it is strongest
    (spatial softmax, Levine et al. 2016) and how strong it is on average.

    Args:
        channels: of the last maps.
    """

    def __init__(self, slot: Slot, channels: int) -> None:
        super().__init__(slot)
        self.channels, self.dim = channels, 3 * channels
        self.sharpness = nn.Parameter(torch.full((channels,), SHARPNESS))

    def maps(self, frames: Tensor) -> Tensor:
        """(N, H, W, C) -> (N, channels, h, w)."""
        raise NotImplementedError

    def forward(self, frames: Tensor, condition: Tensor | None = None) -> Tensor:
        """(N, H, W, C) -> (N, 3 * channels); with `condition` the maps are modulated by it (FiLM,
        Perez et al. 2018).
        """
        return self.told(self.maps(frames), condition)

    def told(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """`forward` from the maps (N, channels, h, w) on, which are most of the work."""
        size = self.channels, *x.shape[2:]
        x = shaped(x, size, f"feature maps of encoder {type(self).__name__}")
        if condition is not None:
            factor, offset = condition[:, :, None, None].chunk(2, dim=1)
            x = x * (1.0 + factor) + offset
        share = (self.sharpness[:, None] * x.flatten(2)).softmax(-1).view_as(x)
        rows, columns = (
            torch.linspace(-1, 1, size, device=x.device, dtype=x.dtype) for size in x.shape[2:]
        )
        where = (share.sum(3) @ rows, share.sum(2) @ columns, x.mean((2, 3)))  # (N, channels) each
        return torch.cat(where, dim=-1)


class FixedNorm(nn.Module):
    """What a batch norm computes once it is trained: a factor and an offset of every channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = (
            nn.Parameter(torch.ones(channels)),
            nn.Parameter(torch.zeros(channels)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, h, w) of the same shape."""
        return x * self.weight[:, None, None] + self.bias[:, None, None]


def fixed_norms(state: Mapping[str, Tensor], eps: float) -> dict[str, Tensor]:
    """A network's weights with every batch norm's statistics folded into its factor and offset."""
    out = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    for name in [k.removesuffix("running_mean") for k in state if k.endswith("running_mean")]:
        mean, var = out.pop(f"{name}running_mean"), out.pop(f"{name}running_var")
        factor = out[f"{name}weight"] / (var + eps).sqrt()
        out[f"{name}bias"] = out[f"{name}bias"] - mean * factor
        out[f"{name}weight"] = factor
    return out


class Colours(nn.Module):
    """Pixels in [-1, 1] as a pretrained network expects them: three channels, of the mean and
    deviation of its training. One channel is shown three times.

    Raises UserError for images of four channels.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, slot: Slot, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        if slot.shape[2] == 4:
            raise UserError(
                f"'{slot.field}' has 4 channels; expected 1 or 3 where an encoder has the weights "
                "of another project; leave that camera out (policy.observe), or use "
                "policy.encoder.name: convolution"
            )
        for name, value in (("mean", mean), ("std", std)):
            own = torch.tensor(value, dtype=torch.float32)[:, None, None]
            self.register_buffer(name, own, persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        """(N, H, W, 1 or 3) -> (N, 3, H, W)."""
        x = frames.movedim(3, 1).expand(-1, 3, -1, -1)
        return (0.5 * (x + 1.0) - self.mean) / self.std


IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation of its pixels
