import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import zarr

from alltrades.data.episode import Episode
from alltrades.data.store import EpisodeStore
from alltrades.errors import UserError


def episode(
    seed=0, length=5, obs=3, act=2, environment="a", source="expert", actions=True
) -> Episode:
    rng = np.random.default_rng(seed)
    success = np.zeros(length, bool)
    success[-1] = seed % 2 == 0
    return Episode(
        {"observation": rng.normal(size=(length, obs)).astype(np.float32)},
        rng.normal(size=(length, act)).astype(np.float32) if actions else None,
        rng.normal(size=length).astype(np.float32),
        success,
        environment,
        source,
        seed,
        bool(success.any()),
        length if success.any() else -1,
        1.5,
    )


def same(a: Episode, b: Episode) -> bool:
    arrays = [(a.observation, b.observation), (a.rewards, b.rewards), (a.successes, b.successes)]
    if a.actions is not None and b.actions is not None:
        arrays.append((a.actions, b.actions))
    facts = ("environment", "source", "seed", "success", "first_success", "return_")
    return (
        all(np.array_equal(x, y) for x, y in arrays)
        and all(getattr(a, f) == getattr(b, f) for f in facts)
        and (a.actions is None) == (b.actions is None)
    )


def test_episodes_come_back_as_they_were_with_different_sizes(tmp_path):
    store = EpisodeStore.create(tmp_path / "s", 4, 2)
    written = [
        episode(0),
        episode(1, 7, 4, 1, "b", "scratch"),
        episode(2**63 - 1, 1),
        episode(4, actions=False),
    ]
    store.append(written[:2])
    store.append(written[2:])
    read = EpisodeStore.open(tmp_path / "s")
    assert len(read) == 4 and all(same(a, b) for a, b in zip(written, read.episodes()))
    assert [e.seed for e in read.episodes("b")] == [1]
    steps = read.steps(["b", "a"])
    assert steps.observation.shape == (18, 4) and steps.has_actions.tolist() == [
        True,
        True,
        True,
        False,
    ]


def test_store_is_zarr_3_in_the_flat_layout(tmp_path):
    EpisodeStore.create(tmp_path / "s", 3, 2).append([episode(0), episode(1)])
    group = zarr.open_group(str(tmp_path / "s"), mode="r")
    assert group.metadata.zarr_format == 3
    assert group["meta/episode_ends"][:].tolist() == [5, 10] and group[
        "data/observation"
    ].shape == (10, 3)


def test_digest_depends_on_content_not_on_how_it_was_appended(tmp_path):
    episodes = [episode(i) for i in range(4)]
    one, many = EpisodeStore.create(tmp_path / "a", 3, 2), EpisodeStore.create(tmp_path / "b", 3, 2)
    one.append(episodes)
    for e in episodes:
        many.append([e])
    assert one.digest() == many.digest()
    many.append([episode(9)])
    assert one.digest() != many.digest() == many.digest(5) == many.digest(99)
    assert one.digest() == many.digest(4) and one.digest(3) != many.digest(4)


WRITER = """
import sys, numpy as np
from alltrades.data.episode import Episode
from alltrades.data.store import EpisodeStore
store = EpisodeStore.open(sys.argv[1], mode="a")
print("ready", flush=True)
for i in range(10**6):
    n = 3000
    observations = {"observation": np.full((n, 3), i, np.float32)}
    rows = np.full((n, 2), i, np.float32), np.zeros(n, np.float32), np.zeros(n, bool)
    store.append([Episode(observations, *rows, "a", "x", i, False, -1, 0.0)])
"""


@pytest.mark.parametrize("delay", [0.05, 0.3, 0.71])
def test_append_killed_at_any_moment_leaves_whole_episodes_only(tmp_path, delay):
    path = tmp_path / "s"
    EpisodeStore.create(path, 3, 2)
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline()
    time.sleep(delay)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = EpisodeStore.open(path)
    count = len(before)
    for i, e in enumerate(before.episodes()):
        assert e.seed == i and len(e) == 3000 and (e.observation == i).all()
    writer = EpisodeStore.open(path, mode="a")
    assert (
        len(writer) == count
        and zarr.open_group(str(path), mode="r")["data/observation"].shape[0] == 3000 * count
    )
    writer.append([episode(7)])
    assert [e.seed for e in EpisodeStore.open(path).episodes()] == [*range(count), 7]


def test_rows_beyond_the_commit_are_invisible_and_then_removed(tmp_path):
    """The state an append leaves when it dies before its commit."""
    path = tmp_path / "s"
    store = EpisodeStore.create(path, 3, 2)
    store.append([episode(0)])
    commit, digest = (path / "commit.json").read_bytes(), store.digest()
    store.append([episode(1, environment="new")])
    (path / "commit.json").write_bytes(commit)
    read = EpisodeStore.open(path)
    assert (
        len(read) == 1
        and read.n_steps == 5
        and read.digest() == digest
        and read.read_array("data/reward").shape == (5,)
    )
    EpisodeStore.open(path, mode="a").append([episode(2)])
    assert [e.seed for e in EpisodeStore.open(path).episodes()] == [0, 2]


def make_v2(path: Path) -> None:
    """A store as Diffusion Policy writes them: Zarr 2, Blosc with bit shuffle, an oversized chunk
    of episode_ends.
    """
    from numcodecs import Blosc

    group = zarr.open_group(str(path), mode="w", zarr_format=2)
    codec = Blosc(cname="zstd", clevel=5, shuffle=Blosc.BITSHUFFLE)
    rng = np.random.default_rng(0)
    for name, value, chunks in (
        ("data/state", rng.normal(size=(25, 5)).astype(np.float32), (7, 5)),
        ("data/action", rng.normal(size=(25, 2)).astype(np.float32), (7, 2)),
        ("meta/episode_ends", np.array([10, 14, 25]), (1000,)),
    ):
        group.create_array(
            name, shape=value.shape, dtype=value.dtype, chunks=chunks, compressors=codec
        )[:] = value


def test_zarr_2_store_is_read_as_it_is(tmp_path):
    make_v2(tmp_path / "v2")
    before = {p: p.read_bytes() for p in (tmp_path / "v2").rglob("*") if p.is_file()}
    store = EpisodeStore.open(tmp_path / "v2")
    assert store.foreign and len(store) == 3 and store.n_steps == 25
    assert store.read_array("data/state").shape == (25, 5) and store.episode_ends.tolist() == [
        10,
        14,
        25,
    ]
    assert np.allclose(
        store.read_array("data/state"), np.random.default_rng(0).normal(size=(25, 5)), atol=1e-6
    )
    assert store.columns()["source"].tolist() == ["demo"] * 3
    assert {p: p.read_bytes() for p in (tmp_path / "v2").rglob("*") if p.is_file()} == before
    with pytest.raises(UserError, match="never written"):
        EpisodeStore.open(tmp_path / "v2", mode="a")


def test_published_pusht_store_is_read_as_it_is():
    folder = os.environ.get("ALLTRADES_TEST_DATA")
    if not folder:
        pytest.skip("set ALLTRADES_TEST_DATA to a folder with pusht_lowdim.zarr")
    store = EpisodeStore.open(Path(folder) / "pusht_lowdim.zarr")
    assert len(store) == 206 and store.n_steps == 25650
    assert (
        store.read_array("data/state").shape == (25650, 5)
        and store.read_array("data/action").max() <= 512
    )


@pytest.mark.parametrize("damage", ["missing", "file", "empty", "no_ends", "future", "array"])
def test_unreadable_stores_give_one_clear_line(tmp_path, damage):
    path = tmp_path / "s"
    if damage == "file":
        path.write_text("x")
    elif damage == "empty":
        path.mkdir()
    elif damage in ("no_ends", "future", "array"):
        EpisodeStore.create(path, 3, 2)
        if damage == "no_ends":
            (path / "commit.json").unlink()
            import shutil

            shutil.rmtree(path / "meta")
        if damage == "future":
            commit = json.loads((path / "commit.json").read_text()) | {"format_version": 99}
            (path / "commit.json").write_text(json.dumps(commit))
    with pytest.raises(UserError) as error:
        EpisodeStore.open(path).read_array("data/nothing")
    text = str(error.value)
    assert "\n" not in text and any(word in text for word in ("expected", "it has", "reads"))


def test_store_refuses_what_does_not_fit_and_stays_whole(tmp_path):
    store = EpisodeStore.create(tmp_path / "s", 3, 2)
    store.append([episode(0)])
    with pytest.raises(UserError, match="wider"):
        store.append([episode(1), episode(2, obs=4)])
    assert len(EpisodeStore.open(tmp_path / "s")) == 1
    with pytest.raises(UserError, match="opened for reading"):
        EpisodeStore.open(tmp_path / "s").append([episode(1)])
    with pytest.raises(UserError, match="already"):
        EpisodeStore.create(tmp_path / "s", 3, 2)


@pytest.mark.parametrize(
    "there", ["notes", "zarr_2", "zarr_3", "rows_without_commit", "other_array", "file"]
)
def test_creating_a_store_loses_nothing_that_was_there(tmp_path, there):
    path = tmp_path / "there"
    if there == "file":
        path.write_text("x")
    elif there == "notes":
        (path / "data").mkdir(parents=True)
        (path / "data" / "thesis.tex").write_text("x")
    elif there == "zarr_2":
        make_v2(path)
    elif there == "zarr_3":
        group = zarr.open_group(str(path), mode="w", zarr_format=3)
        group.create_array("data/observation", shape=(3, 3), dtype="float32")[:] = 1
        group.create_array("meta/episode_ends", shape=(1,), dtype="int64")[:] = 3
    elif there == "other_array":
        zarr.open_group(str(path), mode="w", zarr_format=3).create_array(
            "data/state", shape=(0, 3), dtype="float32"
        )
    else:
        EpisodeStore.create(path, 3, 2).append([episode(0)])
        (path / "commit.json").unlink()
    before = {p: p.read_bytes() for p in (path, *path.rglob("*")) if p.is_file()}
    with pytest.raises(UserError, match="expected a new or an empty folder"):
        EpisodeStore.create(path, 3, 2)
    assert before and {p: p.read_bytes() for p in (path, *path.rglob("*")) if p.is_file()} == before


@pytest.mark.parametrize("left", ["nothing", "groups", "arrays", "partial"])
def test_creating_a_store_again_after_a_kill_in_its_middle(tmp_path, left):
    path = tmp_path / "s"
    EpisodeStore.create(path, 3, 2)
    commit = (path / "commit.json").read_bytes()
    (path / "commit.json").unlink()
    if left == "partial":
        (path / "commit.json.partial").write_bytes(commit[:9])
        (path / "data" / "reward" / "zarr.0123abcd.partial").write_bytes(b"{")
    elif left != "arrays":
        import shutil

        shutil.rmtree(path / "meta")
        if left == "nothing":
            shutil.rmtree(path)
            path.mkdir()
    EpisodeStore.create(path, 3, 2).append([episode(0)])
    assert [e.seed for e in EpisodeStore.open(path).episodes()] == [0]


@pytest.mark.parametrize(
    "change",
    [
        {"rewards": np.zeros(4, np.float32)},
        {"actions": np.full((5, 2), np.nan, np.float32)},
        {"observations": {"state": np.zeros((5, 3))}},
        {"observations": {"observation": np.zeros((0, 3))}},
    ],
)
def test_episodes_are_validated_when_made(change):
    good = episode(0)
    with pytest.raises(ValueError, match="episode of 'a'"):
        Episode(**{**good.__dict__, **change})
