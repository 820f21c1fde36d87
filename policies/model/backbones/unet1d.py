"""Convolutional U-Net over the steps of the chunk with feature-wise conditioning (as in Chi et al.
2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alltrades.policies.model.backbones.base import (
    Backbone,
    Further,
    TimeEmbedding,
    zero_head,
    zero_linear,
)

TIME_DIM = 64
CONTEXT = 4 * TIME_DIM
GROUPS = 8


class ConditionalUnet1d(Backbone):
    """`depth` levels whose channels double up to `width`, for example 128, 256, 512; every level
    halves the time axis.

    Any horizon is accepted: chunks are padded with zeros to a multiple of 2 ** (depth - 1) and cut
    back at the end.
    """

    def __init__(
        self, horizon: int, action_dim: int, condition_dim: int, width: int = 512, depth: int = 3
    ) -> None:
        super().__init__(horizon, action_dim, condition_dim, width, depth)
        channels = [rounded(width >> (depth - 1 - level)) for level in range(depth)]
        multiple = 2 ** (depth - 1)
        self.padding = -horizon % multiple
        self.time = TimeEmbedding(TIME_DIM)
        self.context = nn.Sequential(
            nn.Linear(TIME_DIM + condition_dim, CONTEXT),
            nn.SiLU(),
            nn.Linear(CONTEXT, CONTEXT),
            nn.SiLU(),
        )
        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        self.up, self.grow = nn.ModuleList(), nn.ModuleList()
        before = action_dim
        for level, size in enumerate(channels):
            self.down.append(FilmBlock(before, size, CONTEXT))
            if level < depth - 1:
                self.shrink.append(nn.Conv1d(size, size, 3, stride=2, padding=1))
                self.grow.append(
                    nn.ConvTranspose1d(
                        channels[level + 1], channels[level + 1], 4, stride=2, padding=1
                    )
                )
                self.up.append(FilmBlock(channels[level + 1] + size, size, CONTEXT))
            before = size
        self.middle = FilmBlock(before, before, CONTEXT)
        self.norm = group_norm(channels[0])
        self.head = zero_head(nn.Conv1d(channels[0], action_dim, 1))

    def forward(self, noisy: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """(B, H, A), (B,), (B, C) -> (B, H, A)."""
        first, later = self.parts(noisy, condition)
        known = torch.cat([self.time(t), first.condition], dim=-1)
        context = self.context_of(self.context, known, later)  # (B, context)
        added = [
            more.chunk(self._padded(part.noisy))
            for more, part in zip(self.growths, later)
            if more.chunk is not None
        ]
        x = descend_and_climb(self, self._padded(first.noisy), context, added)
        x = F.silu(self.norm(x))
        heads = [self.head, *(more.head for more in self.growths if more.head is not None)]
        chunks = [head(x) for head in heads]  # (B, a, H') each
        x = torch.cat(chunks, dim=1) if len(chunks) > 1 else chunks[0]  # (B, A, H')
        return x[:, :, : self.horizon].transpose(1, 2)

    def _padded(self, noisy: Tensor) -> Tensor:
        """(B, H, a) -> (B, a, H')."""
        return F.pad(noisy.transpose(1, 2), (0, self.padding))

    def layers_for(self, actions: int, condition: int) -> Further:
        block = cast(FilmBlock, self.down[0])
        return Further(
            FurtherChannels(actions, cast(nn.Conv1d, block.conv1)) if actions else None,
            zero_linear(condition, CONTEXT),
            zero_head(nn.Conv1d(self.norm.num_channels, actions, 1)) if actions else None,
        )


Added = tuple[Tensor, Tensor]  # to both paths of a block


def descend_and_climb(
    net: nn.Module, x: Tensor, context: Tensor, added: Sequence[Added] = ()
) -> Tensor:
    """x (B, channels, *size) through the levels of a U-Net and back; each level halves the size,
    and is joined again.

    `added`: what further channels add to the first block.

    `net` has lists of modules down (one a level), and shrink, grow and up (one between two levels),
    and middle.
    """
    skips: list[Tensor] = []
    for block, shrink in zip_longest(net.down, net.shrink):  # type: ignore[arg-type]
        x = block(x, context, added)  # (B, channels, *size / 2 ** level)
        added = ()
        if shrink is not None:
            skips.append(x)
            x = shrink(x)
    x = net.middle(x, context)  # type: ignore[operator]
    for up, grow, skip in reversed(list(zip(net.up, net.grow, skips))):  # type: ignore[arg-type]
        x = up(torch.cat([grow(x), skip], dim=1), context)
    return x


class FilmBlock(nn.Module):
    """Two convolutions with a residual path; the context scales and shifts the features between
    them (FiLM).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        context: int,
        conv: type[nn.Conv1d] | type[nn.Conv2d] = nn.Conv1d,
        kernel: int = 5,
    ) -> None:
        super().__init__()
        self.conv1 = conv(inputs, outputs, kernel, padding=kernel // 2)
        self.norm1 = group_norm(outputs)
        self.film = nn.Linear(context, 2 * outputs)
        self.conv2 = conv(outputs, outputs, kernel, padding=kernel // 2)
        self.norm2 = group_norm(outputs)
        self.skip = conv(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, context: Tensor, added: Sequence[Added] = ()) -> Tensor:
        """(B, inputs, ...), (B, context) -> (B, outputs, ...), over the steps of a chunk or the
        pixels of an image; `added` to the two paths, (B, outputs, ...) each.
        """
        film = self.film(context).unflatten(1, (-1, *[1] * (x.dim() - 2)))  # (B, 2 outputs, 1, ...)
        scale, shift = film.chunk(2, dim=1)  # (B, outputs, 1, ...) each
        first, past = self.conv1(x), self.skip(x)
        for to_first, to_past in added:
            first, past = first + to_first, past + to_past
        h = F.silu(self.norm1(first))
        h = F.silu(self.norm2(self.conv2(h * (1.0 + scale) + shift)))
        return h + past


class FurtherChannels(nn.Module):
    """What further channels add to the two paths of a block, nothing at first and for zeros.

    `conv`: the block's first convolution.
    """

    def __init__(self, inputs: int, conv: nn.Conv1d) -> None:
        super().__init__()
        size, kernel, padding = conv.out_channels, conv.kernel_size, conv.padding
        self.conv = nn.Conv1d(inputs, size, kernel, padding=padding, bias=False)  # type: ignore[arg-type]
        self.skip = nn.Conv1d(inputs, size, 1, bias=False)
        nn.init.zeros_(self.conv.weight)
        nn.init.zeros_(self.skip.weight)

    def forward(self, x: Tensor) -> Added:
        """(B, inputs, H) -> (B, outputs, H) twice."""
        return self.conv(x), self.skip(x)


def group_norm(channels: int) -> nn.GroupNorm:
    """Eight groups, fewer where a group would have less than four channels: one value alone has no
    deviation.
    """
    return nn.GroupNorm(min(GROUPS, channels // 4), channels)


def rounded(channels: int) -> int:
    """Down to a multiple of eight, and at least eight."""
    return max(GROUPS, channels // GROUPS * GROUPS)
