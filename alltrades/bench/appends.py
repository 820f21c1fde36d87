"""python -m alltrades.bench.appends STORE COUNT: appends episodes of pictures, text and numbers one
by one, as an import does, from where the store ends; a function of their index alone.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from alltrades.data.episode import Episode
from alltrades.data.store import EpisodeStore


def episode(index: int) -> Episode:
    """An episode of 5 to 40 steps."""
    rng = np.random.default_rng(index)
    steps = int(rng.integers(5, 41))
    fields = {
        "state": rng.standard_normal((steps, 7)).astype(np.float32),
        "images.front": rng.integers(0, 256, (steps, 24, 32, 3), dtype=np.uint8),
        "instruction": f"task {index % 5} " * (index % 4),
    }
    actions = rng.standard_normal((steps, 3)).astype(np.float32)
    return Episode.from_arrays(fields, actions, f"bench/{index % 2}", seed=index)


def append(path: Path, count: int) -> None:
    """Until the store has `count` episodes."""
    there = (path / "commit.json").exists()
    with EpisodeStore.open(path, "a") if there else EpisodeStore.create(path) as store:
        for index in range(len(store), count):
            store.append([episode(index)])


if __name__ == "__main__":
    append(Path(sys.argv[1]), int(sys.argv[2]))
