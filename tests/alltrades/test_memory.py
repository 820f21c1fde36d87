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
words = ["train", "labeled_only", "--small", "--labeled_only.steps", "2"]
words += ["--demos.holdout", "0"]
assert cli.main([*words, "--demos", sys.argv[1], "--out", sys.argv[1] + "-policy"]) == 0
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak(path: Path, episodes: int, steps: int, images: bool) -> tuple[int, int]:
    """Bytes at the peak of a training on a store of so many episodes, and those of its rows."""
    rng = np.random.default_rng(0)

    def recordings():
        for _ in range(episodes):
            seen = {"state": rng.standard_normal((steps, 16), dtype=np.float32)}
            if images:
                seen["images.front"] = rng.integers(0, 256, (steps, 64, 64, 3), np.uint8)
            yield Episode.from_arrays(seen, rng.uniform(-1, 1, (steps, 2)), "lab/push")

    EpisodeStore.write(path, recordings())
    done = subprocess.run([sys.executable, "-c", TRAIN, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = episodes * steps * ((16 + 2) * 4 + images * 64 * 64 * 3)
    return 1024 * int(done.stdout.split()[-1]), rows


@pytest.mark.slow
@pytest.mark.parametrize(("episodes", "steps", "images"), [(1000, 1500, False), (30, 400, True)])
def test_training_on_a_large_store_needs_half_as_much_again_as_its_arrays(
    tmp_path, episodes, steps, images
):
    few, small = peak(tmp_path / "small", 2, steps, images)
    many, large = peak(tmp_path / "large", episodes, steps, images)
    assert large > 100e6 and many - few <= 1.5 * (large - small)
