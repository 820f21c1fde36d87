"""A quick look at given demonstrations before anything learns from them: `data check` sees more."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from alltrades.data.checks.examine import NUMBERS, examine_stores
from alltrades.data.checks.findings import lines
from alltrades.data.store import EpisodeStore
from alltrades.envs.spec import EnvSpec

STEPS = 200_000  # at most: some 4 us each
SHOWN = 6  # lines


def look(store: Path, specs: Sequence[EnvSpec], sources: Sequence[Path]) -> None:
    """Print what is wrong or odd in the numbers of a store, one line of each kind; nothing where
    nothing is. O(steps), up to `STEPS`; pictures are not looked at.

    sources: the stores that the user gave, which the line about the rest names.
    """
    opened = EpisodeStore.open(store)
    whole = f"`alltrades data check {' '.join(map(str, sources))}`"
    if opened.n_steps > STEPS:
        print(
            f"demonstrations: {opened.n_steps:,} steps are too many for a quick look; {whole}",
            file=sys.stderr,
        )
        return
    found, _ = examine_stores([opened], {s.id: s.interface for s in specs}, kinds=NUMBERS)
    said = list(lines(found, ("error", "warning"), shown=1))
    for line in said[:SHOWN]:
        print(f"demonstrations: {line}", file=sys.stderr)
    if said:
        print(f"demonstrations: all findings, and pictures: {whole}", file=sys.stderr)
