"""How many processor threads PyTorch uses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from alltrades.policies.model.policy import DiffusionPolicy

SMALL = 500_000  # parameters below which a second thread costs more than it brings


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let PyTorch use `count` threads, and as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def small(policy: DiffusionPolicy) -> bool:
    """Whether a training step of it is shorter than the wait for another thread, be it one of
    PyTorch's or another training's. An encoder of cameras that learns is no small one: its work is
    in pixels, not in parameters.
    """
    return policy.parameter_count() < SMALL and not policy.conditioner.learns_to_see


def threads_for(policy: DiffusionPolicy) -> AbstractContextManager[None]:
    """One thread for small networks."""
    return threads(1 if small(policy) else torch.get_num_threads())
