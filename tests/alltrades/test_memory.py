"""Training holds little more than the arrays it uses, however large the store."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from alltrades.data.episode import Episode
from alltrades.data.store import EpisodeStore

TRAIN = """
import resource, sys
from alltrades import cli
words = ["train", "labeled_only", "--small", "--environments", "[planar/push]"]
words += ["--labeled_only.steps", "2", "--demos.episodes", "1000000"]
assert cli.main([*words, "--demos", sys.argv[1], "--out", sys.argv[1] + "-policy"]) == 0
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak(path: Path, episodes: int, steps: int) -> int:
    """Bytes at the peak of a training on a store of so many episodes."""
    rng = np.random.default_rng(0)

    def recordings():
        for _ in range(episodes):
            state = rng.standard_normal((steps, 16), dtype=np.float32)
            yield Episode.from_arrays(
                {"state": state}, rng.uniform(-1, 1, (steps, 2)), "planar/push"
            )

    EpisodeStore.write(path, recordings())
    done = subprocess.run([sys.executable, "-c", TRAIN, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return 1024 * int(done.stdout.split()[-1])


@pytest.mark.slow
def test_training_on_a_large_store_needs_half_as_much_again_as_its_arrays(tmp_path):
    episodes, steps = 1000, 1500
    more = peak(tmp_path / "large", episodes, steps) - peak(tmp_path / "small", 2, steps)
    assert more <= 1.5 * (episodes * steps * (16 + 2) * 4)
