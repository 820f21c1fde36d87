"""Which episodes of a store are shown."""

from __future__ import annotations

import re

import numpy as np

from alltrades.errors import UserError

SHOWN = 100  # episodes where none are named
MOST = 1000  # that may be named


def spread(environments: np.ndarray, most: int = SHOWN) -> np.ndarray:
    """Up to `most` episodes (n,), evenly spread over those of each environment (E,), ascending; an
    environment with few episodes leaves its share to the others.
    """
    names, counts = np.unique(environments, return_counts=True)
    left, kept = most, []
    for taken, k in enumerate(np.argsort(counts, kind="stable")):
        own = min(int(counts[k]), left // (len(names) - taken))
        left -= own
        mine = np.flatnonzero(environments == names[k])
        kept.append(mine[np.linspace(0, len(mine) - 1, own).round().astype(int)])
    return np.sort(np.concatenate(kept))


def named(text: str, count: int) -> np.ndarray:
    """The episodes (n,) that "0, 3, 7-9" names, ascending, of `count`; those that "all" names.

    Raises UserError for what is no such list, for episodes that are not there, and for more than
    `MOST`.
    """
    found: set[int] = set()
    parts = [part.strip() for part in text.split(",")]
    for part in [f"0-{count - 1}"] if parts == ["all"] else parts:
        match = re.fullmatch(r"(\d{1,18})(?:\s*-\s*(\d{1,18}))?", part, re.ASCII)
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if low > high:
            raise UserError(
                f"--episodes {text!r}: {part!r}; expected all, or numbers and ranges such as "
                "0,3,7-9"
            )
        if high >= count:
            raise UserError(
                f"--episodes {text!r}: no episode {high}; expected 0 to {count - 1}; `alltrades "
                "data info` says how many there are"
            )
        found |= set(range(low, high + 1))
    if len(found) > MOST:
        raise UserError(
            f"--episodes {text!r}: {len(found)} episodes; expected at most {MOST}; name fewer, or "
            "none, for some of each environment"
        )
    return np.array(sorted(found))
