"""Whether the numbers of many tensors are finite, asked at once."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor


def first_unfinite(tensors: Mapping[str, Tensor], infinite: Collection[str] = ()) -> str | None:
    """Name of the first of some tensors on one device that holds a number that is not finite. On a
    GPU it waits once. O(numbers).

    Args:
        infinite: of those that may hold infinities, but no NaN.
    """
    floats = {k: v.detach() for k, v in tensors.items() if v.is_floating_point() and v.numel()}
    if not floats:
        return None
    largest = torch._foreach_norm(list(floats.values()), float("inf"))
    found = torch.stack([x.double() for x in largest]).cpu()
    for name, value in zip(floats, found):
        if value.isnan() or (value.isinf() and name not in infinite):
            return name
    return None
