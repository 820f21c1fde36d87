"""Clean stores of any kind have no error; what is found does not depend on how a store is read."""

import os
from pathlib import Path

import numpy as np
import pytest

from alltrades.data.checks import subject as subjects
from alltrades.data.episode import Episode
from alltrades.data.store import EpisodeStore
from tests.data.checks.planted import check, recordings, store


def walk(rng, steps, size):
    return rng.normal(size=(steps, size)).cumsum(0)


KINDS = {
    "walk": walk,
    "noise": lambda rng, steps, size: rng.normal(size=(steps, size)),
    "heavy tails": lambda rng, steps, size: rng.standard_t(2, (steps, size)),
    "integers": lambda rng, steps, size: rng.integers(0, 4, (steps, size)),
    "switches": lambda rng, steps, size: (walk(rng, steps, size) > 0).astype(float),
    "mostly zero": lambda rng, steps, size: (
        rng.random((steps, size)) * (rng.random((steps, size)) < 0.01)
    ),
    "constant": lambda rng, steps, size: np.full((steps, size), 0.7),
    "tiny": lambda rng, steps, size: 1e-9 * walk(rng, steps, size),
    "huge": lambda rng, steps, size: 1e9 + 1e6 * walk(rng, steps, size),
    "angle": lambda rng, steps, size: np.mod(0.2 * walk(rng, steps, size), 2 * np.pi) - np.pi,
    "growing": lambda rng, steps, size: np.exp(
        rng.normal(size=(1, size)) * np.arange(steps)[:, None] / steps
    ),
}


@pytest.mark.parametrize("seed", range(30))
def test_random_clean_stores_have_no_error(seed, tmp_path):
    rng = np.random.default_rng(seed)
    episodes = []
    names = rng.choice(list(KINDS), 3)
    for environment in ("a", "b")[: 1 + seed % 2]:
        sizes, lengths = rng.integers(1, 6, 3), rng.integers(1, 120, rng.integers(1, 25))
        lengths = np.maximum(lengths, 3) if lengths.max() > 10 else lengths
        picture = rng.integers(0, 256, (8, 12, 16, 3), np.uint8)
        for number, steps in enumerate(lengths.tolist()):
            start = rng.normal(size=4)  # no two episodes begin alike
            fields = {
                f"f{k}": KINDS[name](rng, steps, size)
                for k, (name, size) in enumerate(zip(names, sizes))
            }
            fields["start"] = start + walk(rng, steps, 4)
            if seed % 3 == 0:
                fields["image"] = picture[rng.integers(0, 8, steps)]
            actions = KINDS[names[0]](rng, steps, 2)
            episodes.append(Episode.from_arrays(fields, actions, environment, seed=number))
    found = check(EpisodeStore.write(tmp_path / "a.zarr", episodes))
    assert [str(f) for f in found if f.severity == "error"] == []


def test_blocks_of_any_size_give_the_same_findings(tmp_path, monkeypatch):
    raw = recordings(12)
    raw[3]["state"][17, 1] = 40
    raw[5] = raw[1]
    kept = store(tmp_path / "a.zarr", raw)
    whole = check(kept)
    monkeypatch.setattr(subjects, "BLOCK_BYTES", 1)
    assert [f.to_json() for f in check(kept)] == [f.to_json() for f in whole]
    assert {f.kind for f in whole} >= {"outlier", "duplicate"}


@pytest.mark.skipif(
    "ALLTRADES_TEST_DATA" not in os.environ,
    reason="needs pusht_lowdim.zarr in the folder ALLTRADES_TEST_DATA",
)
def test_recorded_human_demonstrations_have_no_error():
    folder = Path(os.environ["ALLTRADES_TEST_DATA"])
    found = check(EpisodeStore.open(folder / "pusht_lowdim.zarr"))
    assert [str(f) for f in found if f.severity == "error"] == []
    (angle,) = [f for f in found if f.kind == "wrapping"]
    assert (angle.field, angle.dimension) == ("state", 4)  # the block's angle is in [0, 2 pi)
