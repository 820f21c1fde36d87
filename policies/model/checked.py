"""What networks of packages and plugins must not do, said where they are built or first run."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from alltrades.errors import UserError
from alltrades.system.streams import GLOBAL_STATE

ROWS = 2  # that a network is tried on
NEAR = 1e-3  # relative difference of rows that are equal: kernels differ with the batch size
MOST = 120  # characters of what was raised that a line repeats


def check_layers(network: nn.Module, what: str) -> None:
    """Check that rows of a network that is to learn depend neither on one another nor on random
    numbers of its own, as far as its layers say; those that stay in evaluation mode do not.

    Args:
        what: kind and name, as in "encoder 'resnet18'".

    Raises UserError for layers that normalise over the batch, by which a chunk would depend on what
    else is asked for, and for dropout, by which equal commands would end with unequal networks.
    """
    network.train()
    for module in (m for m in network.modules() if m.training):
        name = type(module).__name__
        if isinstance(module, _BatchNorm):
            raise UserError(
                f"{what} has a layer {name}, which normalises over the batch; expected rows that "
                "do not depend on one another; take GroupNorm, or the fixed statistics of its "
                "training"
            )
        if said := _draws(module):
            raise UserError(
                f"{what} has a layer {name}{said}, which draws random numbers that no seed of a "
                "training reaches; expected none; leave it out, or set it to 0 (there are "
                "policy.encoder.shift, jitter and drop, and observation_noise of trainings)"
            )


def check_rows(
    network: nn.Module,
    shapes: Sequence[Sequence[int]],
    row: Sequence[int],
    what: str,
) -> None:
    """Run a copy of a network on the processor, for what its layers do not say (see
    `check_layers`). Parameters that begin with 0, as those of last layers do, are drawn, so that it
    tells something.

    Args:
        network: takes a batch of rows of each of these shapes.
        row: shape of what it gives of a row.
        what: as there.

    Raises UserError where it raises, where it gives anything but numbers of another shape, where
    equal rows come out otherwise the second time, and where a row does beside another one than
    alone.
    """
    generator = torch.Generator().manual_seed(0)
    rows = [torch.rand(ROWS, *shape, generator=generator) for shape in shapes]
    tried = copy.deepcopy(network).cpu().requires_grad_(False)
    for p in tried.parameters():
        if not p.any():
            drawn = torch.randn(p.shape, generator=generator)
            p.copy_(drawn / max(1, drawn[:1].numel()) ** 0.5)
    given = ", ".join(str(tuple(x.shape)) for x in rows)
    try:
        with torch.no_grad(), GLOBAL_STATE, torch.random.fork_rng(devices=[]):
            together, again, alone = (
                tried(*(x[:n].clone() for x in rows)) for n in (ROWS, ROWS, 1)
            )
    except UserError:
        raise
    except Exception as error:
        told = " ".join(str(error).split())[:MOST]
        raise UserError(
            f"{what} raised {type(error).__name__} on rows of {given}: {told}; expected a network "
            "that takes them; correct its forward, or leave out what it does not take"
        ) from error
    for x in (together, again, alone):
        if not isinstance(x, Tensor):
            raise UserError(
                f"{what} gave a {type(x).__name__}; expected a tensor of rows of {tuple(row)}; "
                "correct its forward"
            )
        if not shaped(x, row, what).isfinite().all():
            raise UserError(
                f"{what} gave numbers that are not finite for rows of {given}, of 0 to 1; expected "
                "finite ones; correct its forward, or its first weights"
            )
    if not torch.equal(together, again):
        raise UserError(
            f"{what} gave other numbers for equal rows the second time; expected the same; leave "
            "out what is random in it, which no seed of a training reaches, and what its forward "
            "changes in itself"
        )
    scale = alone.abs().max().clamp(min=1e-6)
    if (together[:1] - alone).abs().max() > NEAR * scale:
        raise UserError(
            f"{what} gave other numbers for a row beside another one than alone; expected rows "
            "that do not depend on one another; take GroupNorm where it normalises over the batch"
        )


def _draws(module: nn.Module) -> str:
    """How a layer draws random numbers, in words; "" where it does not."""
    if isinstance(module, nn.RReLU):
        return " with random slopes"
    share = module.p if isinstance(module, _DropoutNd) else getattr(module, "dropout", 0.0)
    return f" with dropout of {share:g}" if isinstance(share, float | int) and share > 0 else ""


def shaped(x: Tensor, row: Sequence[int], what: str) -> Tensor:
    """What a network gave, rows of a shape. Raises UserError where theirs is another; nothing is
    checked while a graph is traced.
    """
    if not torch.jit.is_tracing() and x.shape[1:] != tuple(row):
        raise UserError(
            f"{what} gave rows of shape {tuple(x.shape[1:])}; expected {tuple(row)}; correct its "
            "forward, or the size that it declares"
        )
    return x
