"""A store is opened once for each of its commits, and nothing of an earlier commit is served."""

import json

import numpy as np
import pytest

from alltrades.data.commit import checksum_of
from alltrades.data.episode import Episode
from alltrades.data.opened import MOST, Stores
from alltrades.data.runs import Runs
from alltrades.data.sources import Memory
from alltrades.data.store import EpisodeStore
from alltrades.errors import UserError


def episode(seed: int, environment: str = "lab/a") -> Episode:
    state = np.random.default_rng(seed).random((4, 2), np.float32)
    return Episode.from_arrays({"state": state}, state, environment, seed=seed)


def write(path, *seeds):
    EpisodeStore.write(path, map(episode, seeds))
    return path


def test_a_store_is_opened_once_while_it_is_not_written(tmp_path, monkeypatch):
    path, opened = write(tmp_path / "a", 0, 1), []
    monkeypatch.setattr(
        EpisodeStore, "open", lambda p, real=EpisodeStore.open: opened.append(p) or real(p)
    )
    stores = Stores()
    first = stores.open(path)
    assert stores.all([path, str(path)]) == [first, first] and len(opened) == 1
    assert first.steps(["lab/a"]) is first.steps(["lab/a"])


def test_a_store_that_was_written_since_is_opened_anew(tmp_path):
    path, stores = write(tmp_path / "a", 0), Stores()
    before = stores.open(path)
    facts = before.digest(), len(before.steps())
    with EpisodeStore.open(path, "a") as store:
        store.append([episode(1, "lab/b")])
    after = stores.open(path)
    assert after is not before and (len(after), after.recorded) == (2, {"lab/a", "lab/b"})
    assert (after.digest(), len(after.steps())) == (EpisodeStore.open(path).digest(), 8)
    assert (before.digest(), len(before.steps())) == facts  # what is read goes on


def test_another_store_at_the_same_path_is_opened_anew(tmp_path):
    path, stores = write(tmp_path / "a", 0), Stores()
    stores.open(path)
    path.rename(tmp_path / "b")
    with pytest.raises(UserError, match="no such store"):
        stores.open(path)
    write(path, 7)
    assert stores.open(path).columns()["seed"].tolist() == [7]


def test_a_writer_sees_its_own_appends(tmp_path):
    with EpisodeStore.create(tmp_path / "a") as store:
        store.append([episode(0)])
        digest, steps = store.digest(), store.steps()
        store.append([episode(1)])
        assert len(steps) == 4 and len(store.steps()) == 8 and store.digest() != digest


def test_only_so_many_stores_are_kept(tmp_path):
    stores, paths = Stores(), [write(tmp_path / str(i), i) for i in range(MOST + 1)]
    first, *_, last = stores.all(paths)
    assert stores.open(paths[-1]) is last and stores.open(paths[0]) is not first


def test_a_checksum_tells_commits_apart_and_is_of_format_2_alone(tmp_path):
    one, two = (checksum_of(write(tmp_path / str(i), i)) for i in range(2))
    assert one and two and one != two
    (tmp_path / "0" / "commit.json").write_text('{"format_version": 1}')
    assert checksum_of(tmp_path / "0") is None and checksum_of(tmp_path / "nothing") is None


def test_a_commit_counts_by_its_values_where_it_was_laid_out_otherwise(tmp_path):
    file = write(tmp_path / "a", 0) / "commit.json"
    commit = json.loads(file.read_text())
    file.write_text(json.dumps(commit, indent=2))
    assert len(EpisodeStore.open(tmp_path / "a")) == 1
    file.write_text(json.dumps(commit | {"episodes": 2}))
    with pytest.raises(UserError, match="changed after it was written"):
        EpisodeStore.open(tmp_path / "a")


def test_rows_of_one_environment_among_many_keep_its_source_alone():
    sources = [Memory(np.full((3, 1), i)) for i in range(50)]
    whole = Runs(sources, np.arange(50), np.zeros(50, int), np.full(50, 3))
    few = whole.between(np.array([120, 6]), np.array([124, 9]))
    assert [s.array[0, 0] for s in few.sources] == [2, 40, 41]
    assert [(b.source.array[0, 0], b.start, b.stop) for b in few] == [
        (40, 0, 3),
        (41, 0, 1),
        (2, 0, 3),
    ]
