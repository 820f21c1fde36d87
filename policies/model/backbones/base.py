"""What all denoisers have in common: their call, the embedding of time, the
zero-initialised head.
"""

from __future__ import annotations

import math
from typing import ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn

from alltrades.errors import UserError


class Image(NamedTuple):
    """Shape of the images that chunks consist of. The condition begins with `images` of them,
    flattened row by row.
    """

    images: int
    height: int
    width: int


class Part(NamedTuple):
    """What the first environments of a policy, or those of one growth, have of its inputs: chunk
    (B, H, a) and condition (B, c).
    """

    noisy: Tensor
    condition: Tensor


class Further(nn.Module):
    """The layers of one growth of a denoiser; None where nothing is added.

    Args:
        chunk, condition: what further dimensions of the chunk, and numbers of the condition, add to
            a hidden layer. Without bias: zeros add nothing.
        head: further dimensions of the output.
    """

    chunk: nn.Module | None
    condition: nn.Module | None
    head: nn.Module | None

    def __init__(
        self, chunk: nn.Module | None, condition: nn.Module | None, head: nn.Module | None
    ) -> None:
        super().__init__()
        self.chunk, self.condition, self.head = chunk, condition, head


class Backbone(nn.Module):
    """Base of the denoisers.

    Args:
        horizon, action_dim: shape (H, A) of an action chunk.
        condition_dim: size C of the conditioning vector.
        width: hidden width (the widest level for the U-Net).
        depth: residual blocks (levels for the U-Nets).

    Attributes:
        pixels: whether the condition begins with the observed images; such a denoiser takes an
            `Image` as last argument.
        further: the layers of every growth (see `widen`).

    A row of the output depends on the same row of the inputs only, bit for bit at a fixed batch
    size: no network here may normalise over the batch.
    """

    pixels: ClassVar[bool] = False

    def __init__(
        self, horizon: int, action_dim: int, condition_dim: int, width: int, depth: int
    ) -> None:
        super().__init__()
        self.horizon, self.action_dim, self.condition_dim = horizon, action_dim, condition_dim
        self.width, self.depth = width, depth
        self.further = nn.ModuleList()
        self._ends = [(action_dim, condition_dim)]

    def widen(self, actions: int, condition: int) -> None:
        """Take so many further dimensions of a chunk, and numbers of the condition, behind those
        that there are.

        Where these are zero, what was there before comes out as before, bit for bit: it is computed
        by the same layers of the same sizes.

        Raises UserError for a denoiser of a plugin without `layers_for`.
        """
        if not actions and not condition:
            return
        self.further.append(self.layers_for(actions, condition))
        self.action_dim, self.condition_dim = (
            self.action_dim + actions,
            self.condition_dim + condition,
        )
        self._ends.append((self.action_dim, self.condition_dim))

    def layers_for(self, actions: int, condition: int) -> Further:
        """The layers of a growth, which its `forward` adds to its own."""
        raise UserError(
            f"backbone {type(self).__name__} cannot grow by {actions} action dimensions and "
            f"{condition} numbers of the condition; expected environments of the sizes and fields "
            "that the policy knows, or a backbone with `layers_for`; train a policy of all "
            "environments with `alltrades run`"
        )

    @property
    def growths(self) -> list[Further]:
        """`further` as what they are."""
        return cast(list[Further], list(self.further))

    def parts(self, noisy: Tensor, condition: Tensor) -> tuple[Part, list[Part]]:
        """The inputs that the first layers take, and those of every growth."""
        if not self.further:
            return Part(noisy, condition), []
        ends = [(0, 0), *self._ends]
        first, *later = [
            Part(noisy[..., a0:a1].contiguous(), condition[:, c0:c1].contiguous())
            for (a0, c0), (a1, c1) in zip(ends, ends[1:])
        ]
        return first, later

    def with_conditions(self, x: Tensor, later: list[Part]) -> Tensor:
        """A hidden layer (B, width) with what the conditions of later growths add to it."""
        for more, part in zip(self.growths, later):
            if more.condition is not None:
                x = x + more.condition(part.condition)
        return x

    def context_of(self, layers: nn.Sequential, x: Tensor, later: list[Part]) -> Tensor:
        """`layers` of the first condition and time, with what later ones add to the first layer."""
        if not later:
            return layers(x)
        first, *rest = layers
        x = self.with_conditions(first(x), later)
        for layer in rest:
            x = layer(x)
        return x

    def forward(self, noisy: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """(B, H, A) noised chunk, (B,) times in [0, 1], (B, C) condition -> (B, H, A)
        prediction.
        """
        raise NotImplementedError


class TimeEmbedding(nn.Module):
    """Sines and cosines of t at `dim // 2` frequencies, log-spaced from 1 to 256 radians per unit
    of time.

    The lowest tells the ends of [0, 1] apart, the highest neighbouring steps of a 100-step process.
    """

    frequencies: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = 2 * (dim // 2)
        self.register_buffer(
            "frequencies", torch.linspace(0.0, math.log(256.0), dim // 2).exp(), persistent=False
        )

    def forward(self, t: Tensor) -> Tensor:
        """(B,) -> (B, dim)."""
        angle = t[:, None] * self.frequencies  # (B, dim / 2)
        return torch.cat([angle.sin(), angle.cos()], dim=-1)


def zero_head(layer: nn.Linear | nn.Conv1d | nn.Conv2d) -> nn.Linear | nn.Conv1d | nn.Conv2d:
    """Zero the layer, so that the untrained network predicts the mean of normalised targets."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def zero_linear(inputs: int, outputs: int) -> nn.Linear | None:
    """A layer that adds nothing at first, and nothing for zeros; None without inputs."""
    if not inputs:
        return None
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.zeros_(layer.weight)
    return layer
