"""Numbers that can be computed with: finite ones, also in the single precision of networks."""

from __future__ import annotations

import numpy as np

LARGEST = float(np.finfo(np.float32).max)


def finite(x: np.ndarray) -> np.ndarray:
    """Where numbers of a float dtype are finite and no larger than single precision holds: bool of
    the same shape.
    """
    if x.dtype.itemsize <= 4:
        return np.isfinite(x)
    with np.errstate(invalid="ignore"):
        return np.abs(x) <= LARGEST


def fault(number: float) -> str:
    """What is wrong with a number that is not `finite`, behind what has it."""
    if np.isfinite(number):
        return f"is {number:g}, beyond single precision ({LARGEST:.1e}),"
    return "is not finite"
