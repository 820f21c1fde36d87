"""What an import warned of: what a store keeps of time stamps, which it puts on an even rate."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from alltrades.data.checks.findings import Finding
from alltrades.data.store import EpisodeStore

EPISODE = re.compile(r"episode (\d+): .*between steps \d+ and (\d+)")


def said(store: EpisodeStore) -> Iterator[Finding]:
    """Warnings of the import, those of a gap in time with its place."""
    lines = store.provenance.get("warnings") or ()
    if not isinstance(lines, list | tuple) or not lines or not len(store):
        return
    c = store.columns()
    timed = store.timed(np.arange(len(store)))  # those tell of their gaps themselves
    numbers = {int(seed): i for i, seed in enumerate(c["seed"])}  # of the recording
    for line in map(str, lines):
        gap = EPISODE.search(line)
        episode = None if gap is None else numbers.get(int(gap[1]))
        if episode is not None and timed[episode]:
            continue
        yield Finding(
            "note" if gap is None else "warning",
            "import" if gap is None else "time",
            str(c["environment"][episode or 0]),
            f"its import said: {line}",
            "nothing to do, if that is right" if gap is None else "cut the episode there",
            episode,
            None if gap is None or episode is None else int(gap[2]),
            store=str(store.path),
        )
