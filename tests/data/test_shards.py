"""Shards that several processes wrote become what one process would have appended, or nothing."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from alltrades.data import shards
from alltrades.data.shards import finish_shard, merge_shards, open_shard, shards_of
from alltrades.data.store import EpisodeStore
from alltrades.errors import UserError
from tests.data.stores import episode, rich_episode, same

ROOT = Path(__file__).parents[2]


def episodes_of_all_kinds():
    """Two environments in turn, text, pictures, some without actions."""
    return [
        rich_episode(i, 3 + i % 4, actions=i != 2) if i % 3 else episode(i, 2 + i % 5)
        for i in range(15)
    ]


def whole(path, written):
    return EpisodeStore.write(path, written)


def written_in_shards(path, written, order, parts=3):
    EpisodeStore.create(path).close()
    each = len(written) // parts
    for k in order:
        with open_shard(path, k) as shard:
            for e in written[k * each : (k + 1) * each]:
                shard.append([e])
            finish_shard(shard)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_merged_shards_are_the_store_that_one_process_writes_to_the_last_byte(tmp_path, order):
    written = episodes_of_all_kinds()
    one = whole(tmp_path / "one", written)
    written_in_shards(tmp_path / "many", written, order)
    assert len(EpisodeStore.open(tmp_path / "many")) == 0  # until they are merged
    with EpisodeStore.open(tmp_path / "many", "a") as store:
        assert merge_shards(store) == 3
    many = EpisodeStore.open(tmp_path / "many")
    assert all(same(a, b) for a, b in zip(written, many.episodes())) and len(many) == 15
    assert many.digest() == one.digest()
    files = [{p.relative_to(s.path) for s in (x,) for p in s.path.rglob("*")} for x in (one, many)]
    assert files[0] == files[1]
    assert (one.path / "commit.json").read_bytes() == (many.path / "commit.json").read_bytes()


def test_shards_are_appended_behind_what_is_there(tmp_path):
    written = [episode(i) for i in range(6)]
    EpisodeStore.write(tmp_path / "s", written[:2])
    for k in (1, 0):
        with open_shard(tmp_path / "s", k) as shard:
            shard.extend(written[2 + 2 * k : 4 + 2 * k])
            finish_shard(shard)
    with EpisodeStore.open(tmp_path / "s", "a") as store:
        merge_shards(store)
        assert [e.seed for e in store.episodes()] == [0, 1, 2, 3, 4, 5]
        assert store.merged == []


WORKER = """
import os, signal, sys
from alltrades.data.shards import open_shard
from tests.data.stores import episode
shard = open_shard(sys.argv[1], 1)
shard.append([episode(1)])
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_shard_of_a_worker_that_died_does_not_count_and_is_removed(tmp_path):
    path = tmp_path / "s"
    EpisodeStore.create(path).close()
    with open_shard(path, 0) as shard:
        shard.append([episode(0)])
        finish_shard(shard)
    died = subprocess.run([sys.executable, "-c", WORKER, str(path)], cwd=ROOT)
    assert died.returncode == -signal.SIGKILL and len(shards_of(path)) == 2
    with open_shard(path, 2) as living:
        living.append([episode(2)])
        with EpisodeStore.open(path, "a") as store:
            assert merge_shards(store) == 1
        assert [p.name for p in shards_of(path)] == ["000002"]
        finish_shard(living)
    with EpisodeStore.open(path, "a") as store:
        merge_shards(store)
        assert [e.seed for e in store.episodes()] == [0, 2]
    assert not shards_of(path)


@pytest.mark.parametrize("behind", [False, True])
def test_a_merge_that_is_cut_short_appends_everything_once_or_nothing(
    tmp_path, monkeypatch, behind
):
    """It dies before its commit, or between it and the removal of what it took."""
    written = [episode(i) for i in range(6)]
    written_in_shards(tmp_path / "s", written, (0, 1, 2))

    def dies(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if behind:
            patch.setattr(shards, "remove", dies)
        else:
            patch.setattr(EpisodeStore, "_make_commit", dies)
        with EpisodeStore.open(tmp_path / "s", "a") as store, pytest.raises(KeyboardInterrupt):
            merge_shards(store)
    assert len(EpisodeStore.open(tmp_path / "s")) == (6 if behind else 0)
    with EpisodeStore.open(tmp_path / "s", "a") as store:
        assert merge_shards(store) == (0 if behind else 3)
    again = EpisodeStore.open(tmp_path / "s")
    assert [e.seed for e in again.episodes()] == list(range(6)) and not shards_of(again.path)
    assert again.digest() == whole(tmp_path / "one", written).digest()


def test_a_shard_that_does_not_fit_leaves_the_store_as_it_was(tmp_path):
    path = tmp_path / "s"
    before = EpisodeStore.write(path, [episode(0)]).digest()
    for k, obs in enumerate((3, 4)):
        with open_shard(path, k) as shard:
            shard.append([episode(1 + k, obs=obs)])
            finish_shard(shard)
    with EpisodeStore.open(path, "a") as store, pytest.raises(UserError, match="'a'.*state"):
        merge_shards(store)
    assert EpisodeStore.open(path).digest() == before and len(shards_of(path)) == 2


def test_a_shard_is_gone_on_with_by_who_began_it_and_begun_anew_by_others(tmp_path):
    EpisodeStore.create(tmp_path / "s").close()
    with open_shard(tmp_path / "s", 0, {"part": 1}) as shard:
        shard.append([episode(0)])
    with open_shard(tmp_path / "s", 0, {"part": 1}) as shard:
        assert len(shard) == 1
        with pytest.raises(UserError, match="in use by process"):
            open_shard(tmp_path / "s", 0, {"part": 1})
    with open_shard(tmp_path / "s", 0, {"part": 2}) as shard:
        assert len(shard) == 0


def test_a_shard_needs_a_store(tmp_path):
    with pytest.raises(UserError, match="no store to write a shard of; expected one; create it"):
        open_shard(tmp_path / "none", 0)
