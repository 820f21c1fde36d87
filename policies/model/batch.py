"""What a training step computes with: a batch, its noised chunks, and random numbers for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Part(NamedTuple):
    """The random numbers of rows start to stop of `rows`, for all of which a generator draws."""

    generator: torch.Generator
    start: int
    stop: int
    rows: int


# one for all rows, one for each of equal blocks of rows, or one of which these rows are a part
Generators = torch.Generator | Sequence[torch.Generator] | Part


@dataclass
class Batch:
    """One training batch.

    window by slot, (B, n_obs_steps, *shape), and action (B, H, A), both in environment units, mask
    (B, H) of real steps, environment (B,), loss_weight (B,), the factor of each sample's loss, and,
    where they are inputs, preference (B, K) and outcome (B,) of each sample. A window may have more
    slots, more frames and wider states than a policy sees: what its teachers need.
    """

    window: dict[str, Tensor]
    action: Tensor
    mask: Tensor
    environment: Tensor
    loss_weight: Tensor
    preference: Tensor | None = None
    outcome: Tensor | None = None


class Noised(NamedTuple):
    """A noised chunk (B, H, A), its time (B,), and what the network should predict (B, H, A)."""

    chunk: Tensor
    t: Tensor
    target: Tensor


def draw_random(
    kind: Callable[..., Tensor], shape: torch.Size, generator: Generators, device: torch.device
) -> Tensor:
    """Random numbers of a shape; with several generators each gives an equal block of rows, and of
    a part its own.
    """
    if isinstance(generator, torch.Generator):
        return kind(shape, generator=generator, device=device)
    if isinstance(generator, Part):
        every = kind((generator.rows, *shape[1:]), generator=generator.generator, device=device)
        return every[generator.start : generator.stop]
    rows = shape[0] // len(generator)
    return torch.cat([kind((rows, *shape[1:]), generator=g, device=device) for g in generator])
