"""Least and largest of each column of many rows."""

from __future__ import annotations

import numpy as np

FEW = 256  # numbers that are compared at once with as many: narrow rows are laid side by side


def extremes(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(D,) each: least and largest of the columns of rows (n, D), of which there are some.

    The same as `rows.min(0), rows.max(0)`, which compare D numbers at a time, and take several
    times as long where these are few.
    """
    count, width = rows.shape
    side = FEW // max(width, 1)
    whole = count - count % side if side > 1 else 0
    if not whole:
        return rows.min(0), rows.max(0)
    wide = rows[:whole].reshape(-1, side * width)
    low, high = (x.reshape(side, width) for x in (wide.min(0), wide.max(0)))
    return (
        np.concatenate([low, rows[whole:]]).min(0),
        np.concatenate([high, rows[whole:]]).max(0),
    )
