"""Random streams: one for every (seed, names), independent of others, equal on every machine."""

from __future__ import annotations

import hashlib
import threading
from typing import Any

import numpy as np

from alltrades.errors import UserError

# Held by whoever changes global random generators (Python's, NumPy's, torch's) for a while.
GLOBAL_STATE = threading.RLock()


def checked_seed(seed: Any) -> int:
    """A seed of any size and sign; raises UserError for what is no integer."""
    if isinstance(seed, (bool, np.bool_)) or not isinstance(seed, (int, np.integer)):
        raise UserError(f"seed {str(seed)[:40]!r} is a {type(seed).__name__}; expected an integer")
    return int(seed)


def _entropy(seed: int, names: tuple[str | int, ...]) -> int:
    """128 bits of (seed, names): no two lists of names share them, however their parts are cut."""
    text = repr((int(seed), *(n if isinstance(n, str) else int(n) for n in names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """The generator of what `names` say, such as stream(seed, "held out", environment).

    NumPy's, so that it is the same on every device and where PyTorch is not installed.
    """
    return np.random.default_rng(_entropy(seed, names))


def stream_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed, for what takes a seed and no generator."""
    return _entropy(seed, names) & ((1 << 63) - 1)
