"""The device that a setting names."""

from __future__ import annotations

import torch

from alltrades.errors import UserError


def check_device(name: str) -> None:
    """Raise UserError for a name that PyTorch does not know, and for a device that is not there."""
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        there = ["cpu"]
        if torch.cuda.is_available():
            there += [f"cuda:{k}" for k in range(torch.cuda.device_count())]
        said = str(error).splitlines()[0].split(". ")[0][:80]
        raise UserError(
            f"device = {name}: not there ({said}); expected one of {', '.join(there)}"
        ) from error
