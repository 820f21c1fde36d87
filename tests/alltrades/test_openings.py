"""What a command does with the stores that it is given does not grow with its stages: they are
opened, read and measured once.
"""

from collections import Counter

import pytest

from alltrades import cli
from alltrades.bench.synthetic import write_synthetic
from alltrades.data.chunks import ChunkedArray
from alltrades.data.groups import Group
from alltrades.policies.learning import initial

WORDS = "--small --demos.holdout 0 --labeled_only.steps 1 --specialist.train.steps 1".split()


@pytest.fixture
def counts(monkeypatch):
    """How often environments are read from commits, chunks from disk, and statistics are taken."""
    found: Counter[str] = Counter()

    def counted(owner, name, said):
        real = getattr(owner, name)

        def call(*args, **kwargs):
            found[said(*args)] += 1
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    counted(Group, "from_json", lambda *_: "described")
    counted(initial, "measure", lambda environment, *_: f"measured {environment.id}")
    counted(ChunkedArray, "_checked", lambda array, i, _: f"read {array.path} {i}")
    return found


@pytest.mark.parametrize("what", ["labeled_only", "specialists"])
def test_a_training_reads_and_measures_what_it_is_given_once(tmp_path, counts, what, capsys):
    environments = 3
    path = tmp_path / "demos.zarr"
    write_synthetic(path, 600, environments, 0)
    counts.clear()
    cli.main(["train", what, *WORDS, "--demos", str(path), "--out", str(tmp_path / "out")])
    assert counts["described"] == environments
    ids = [f"bench/{k:04d}" for k in range(environments)]
    assert [counts[f"measured {i}"] for i in ids] == [1] * environments
    read = {name: n for name, n in counts.items() if name.startswith("read ")}
    assert read and set(read.values()) == {1}
