"""What networks of packages and plugins must not do, said where they are built or first run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from alltrades.errors import UserError

Network = TypeVar("Network", bound=nn.Module)


def checked(network: Network, what: str) -> Network:
    """The network, whose rows do not depend on one another nor on random numbers of its own, as far
    as its layers say.

    Args:
        what: kind and name, as in "encoder 'resnet18'".

    Raises UserError for layers that normalise over the batch, by which a chunk would depend on what
    else is asked for, and for dropout, by which equal commands would end with unequal networks.
    """
    learning = [m for m in network.train().modules() if m.training]  # some stay as they are
    for module in learning:
        name = type(module).__name__
        if isinstance(module, _BatchNorm):
            raise UserError(
                f"{what} has a layer {name}, which normalises over the batch; expected rows that "
                "do not depend on one another; take GroupNorm, or the fixed statistics of its "
                "training"
            )
        if isinstance(module, _DropoutNd) and module.p > 0:
            raise UserError(
                f"{what} has a layer {name} with p = {module.p:g}, which draws random numbers that "
                "no seed of a training reaches; expected none; leave it out, or set p = 0 (there "
                "are policy.encoder.shift, jitter and drop, and observation_noise of trainings)"
            )
    return network


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
