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

from alltrades import cli
from alltrades.data import store as store_module
from alltrades.data.actions import ActionSpec
from alltrades.data.episode import Episode
from alltrades.data.fields import Field
from alltrades.data.interface import Interface
from alltrades.data.store import EpisodeStore
from alltrades.errors import UserError
from tests.data.stores import episode, same, states


def test_episodes_come_back_as_they_were_with_different_sizes(tmp_path):
    store = EpisodeStore.create(tmp_path / "s")
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
    assert states(steps).shape == (18, 4) and steps.has_actions.tolist() == [
        True,
        True,
        True,
        False,
    ]


def test_store_is_zarr_3_with_a_group_per_environment_and_no_padding(tmp_path):
    written = [episode(0), episode(1, 6, 4, 1, "b/x:y"), episode(2)]
    EpisodeStore.create(tmp_path / "s").append(written)
    group = zarr.open_group(str(tmp_path / "s"), mode="r")
    assert group.metadata.zarr_format == 3
    assert sorted(group.group_keys()) == ["a", "b__x%3ay", "meta"]
    a, b = group["a"], group["b__x%3ay"]
    assert a["meta/episode_ends"][:].tolist() == [5, 10]
    assert group["meta/environment"][:].tolist() == [0, 1, 0]
    assert np.array_equal(
        a["data/state"][:], np.concatenate([states(written[0]), states(written[2])])
    )
    assert b["data/state"].shape == (6, 4) and np.array_equal(b["data/action"], written[1].actions)
    for _, array in [*a["data"].arrays(), *a["meta"].arrays(), *group["meta"].arrays()]:
        assert [c["name"] for c in array.metadata.to_dict()["codecs"]] == [
            "bytes",
            "zstd",
            "crc32c",
        ]


def test_digest_depends_on_content_not_on_how_it_was_appended(tmp_path):
    episodes = [episode(i) for i in range(4)]
    one, many = EpisodeStore.create(tmp_path / "a"), EpisodeStore.create(tmp_path / "b")
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
    observations = {"state": np.full((n, 3), i, np.float32)}
    rows = np.full((n, 2), i, np.float32), np.zeros(n, np.float32), np.zeros(n, bool)
    store.append([Episode(observations, *rows, "a", "x", i, False, -1, 0.0)])
"""


@pytest.mark.parametrize("delay", [0.05, 0.3, 0.71])
def test_append_killed_at_any_moment_leaves_whole_episodes_only(tmp_path, delay):
    path = tmp_path / "s"
    EpisodeStore.create(path)
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline()
    time.sleep(delay)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = EpisodeStore.open(path)
    count = len(before)
    for i, e in enumerate(before.episodes()):
        assert e.seed == i and len(e) == 3000 and (states(e) == i).all()
    with EpisodeStore.open(path, mode="a") as writer:
        assert len(writer) == count
        writer.append([episode(7)])
    assert zarr.open_group(str(path), mode="r")["a/data/state"].shape[0] == 3000 * count + 5
    assert [e.seed for e in EpisodeStore.open(path).episodes()] == [*range(count), 7]


def test_rows_beyond_the_commit_are_invisible_and_then_replaced(tmp_path):
    """The state an append leaves when it dies before its commit."""
    path = tmp_path / "s"
    store = EpisodeStore.create(
        path, [Interface("a", {"state": Field.state(3)}, ActionSpec.unknown(2))]
    )
    store.append([episode(0)])
    commit, digest = (path / "commit.json").read_bytes(), store.digest()
    store.append([episode(1, 9, environment="new"), episode(1, 9)])
    store.close()
    (path / "commit.json").write_bytes(commit)
    read = EpisodeStore.open(path)
    assert (
        len(read) == 1
        and read.n_steps == 5
        and read.digest() == digest
        and read.read_array("data/reward", "a").shape == (5,)
    )
    written = [episode(0), episode(2), episode(3, environment="new")]
    EpisodeStore.open(path, mode="a").append(written[1:])
    assert all(same(a, b) for a, b in zip(written, EpisodeStore.open(path).episodes()))
    group = zarr.open_group(str(path), mode="r")
    assert group["a/data/reward"].shape == (10,) and group["new/data/reward"].shape == (5,)


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
    first = next(store.episodes())
    assert list(first.observations) == ["state"]
    assert np.array_equal(states(first), store.read_array("data/state")[: len(first)])
    assert states(store.steps()).shape == (25650, 5)


@pytest.mark.parametrize("damage", ["missing", "file", "empty", "no_ends", "future", "array"])
def test_unreadable_stores_give_one_clear_line(tmp_path, damage):
    path = tmp_path / "s"
    if damage == "file":
        path.write_text("x")
    elif damage == "empty":
        path.mkdir()
    elif damage in ("no_ends", "future", "array"):
        EpisodeStore.create(path)
        if damage == "no_ends":
            (path / "commit.json").unlink()
        if damage == "future":
            commit = json.loads((path / "commit.json").read_text()) | {"format_version": 99}
            (path / "commit.json").write_text(json.dumps(commit))
    with pytest.raises(UserError) as error:
        EpisodeStore.open(path).read_array("data/nothing")
    text = str(error.value)
    assert "\n" not in text and any(word in text for word in ("expected", "it has", "reads"))


def test_store_refuses_what_does_not_fit_and_stays_whole(tmp_path):
    with EpisodeStore.create(tmp_path / "s") as store:
        store.append([episode(0)])
        with pytest.raises(UserError, match="'state' is a state of 4 numbers, not a"):
            store.append([episode(1), episode(2, obs=4)])
        with pytest.raises(UserError, match="'a' does not fit: actions have 1 numbers, not 2"):
            store.append([episode(1), episode(2, act=1)])
        for name in ("", "zarr.json", "commit.json", "meta"):
            with pytest.raises(UserError, match="cannot name an environment"):
                store.append([episode(1, environment=name)])
        assert len(EpisodeStore.open(tmp_path / "s")) == 1
    for closed in (store, EpisodeStore.open(tmp_path / "s")):
        with pytest.raises(UserError, match="opened for reading"):
            closed.append([episode(1)])
    with pytest.raises(UserError, match="already"):
        EpisodeStore.create(tmp_path / "s")


def test_actions_that_come_after_episodes_without_them(tmp_path):
    written = [episode(0, actions=False), episode(1), episode(2, actions=False)]
    with EpisodeStore.create(tmp_path / "s") as store:
        for e in written:
            store.append([e])
    read = EpisodeStore.open(tmp_path / "s")
    assert all(same(a, b) for a, b in zip(written, read.episodes()))
    assert read.columns()["has_actions"].tolist() == [False, True, False]
    assert read.interfaces()["a"].action == ActionSpec.unknown(2)
    assert read.steps().action[:].any(1).tolist() == [False] * 5 + [True] * 5 + [False] * 5
    EpisodeStore.write(tmp_path / "none", written[:1])
    assert EpisodeStore.open(tmp_path / "none").steps().action.shape == (5, 0)


def test_the_order_of_appending_goes_over_environments(tmp_path):
    names = ["b", "a", "c"]
    written = [episode(i, 3 + i % 4, environment=names[i % 3]) for i in range(12)]
    store = EpisodeStore.write(tmp_path / "s", written, {"kind": "mine"})
    assert [e.seed for e in store.episodes()] == list(range(12)) and len(store) == 12
    assert [e.seed for e in store.episodes("a")] == [1, 4, 7, 10]
    assert store.episode_ends.tolist() == np.cumsum([len(e) for e in written]).tolist()
    assert np.array_equal(states(store.steps())[:], np.concatenate([states(e) for e in written]))
    some = store.steps(["c", "a"])
    assert some.seed.tolist() == [1, 2, 4, 5, 7, 8, 10, 11]
    assert np.array_equal(some.action[:], np.concatenate([written[i].actions for i in some.seed]))
    assert store.provenance == {"kind": "mine"}


def test_own_recordings_become_episodes(tmp_path):
    observations, actions = np.arange(8.0).reshape(4, 2), np.ones((4, 1))
    plain = Episode.from_arrays({"state": observations}, actions, "my/robot")
    told = Episode.from_arrays(
        observations={"state": observations},
        actions=None,
        environment="my/robot",
        rewards=[0, 0.5, 1, 0],
        successes=[0, 0, 1, 0],
        source="teleoperation",
        seed=3,
    )
    assert (plain.success, plain.first_success, plain.source) == (None, None, "demo")
    assert (told.success, told.first_success, told.return_) == (True, 3, 1.5)
    read = list(EpisodeStore.write(tmp_path / "s", [plain, told]).episodes())
    assert same(read[0], plain) and same(read[1], told)
    with pytest.raises(ValueError, match="rewards has 3 steps; expected 4"):
        Episode.from_arrays({"state": observations}, actions, "my/robot", rewards=[1, 2, 3])


def test_chunks_are_about_a_megabyte_and_small_stores_small(tmp_path):
    EpisodeStore.write(tmp_path / "small", [episode(i, 3) for i in range(3)])
    files = [p for p in (tmp_path / "small").rglob("0") if p.is_file()]
    assert len(files) == 12 and sum(p.stat().st_size for p in files) < 3000
    wide = Episode.from_arrays(
        {"state": np.random.default_rng(0).random((100, 20_000), np.float32)},
        np.zeros((100, 2)),
        "wide",
    )
    assert zarr.open_array(
        str(EpisodeStore.write(tmp_path / "wide", [wide]).path / "wide/data/state"), mode="r"
    ).chunks == (2**20 // 80_000, 20_000)
    ones = np.ones((2, 300_000), np.float32)
    huge = EpisodeStore.write(tmp_path / "huge", [Episode.from_arrays({"state": ones}, ones, "h")])
    assert np.array_equal(states(huge.episode(0)), ones)


def test_reading_some_episodes_reads_only_the_chunks_that_hold_them(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    written = [
        Episode.from_arrays(
            {"state": rng.random((100, 500), np.float32)}, rng.random((100, 2)), name
        )
        for _ in range(20)
        for name in ("a", "b")
    ]  # a chunk holds 5.2 episodes of an environment
    store = EpisodeStore.write(tmp_path / "s", written)
    store.columns()
    read: list[Path] = []
    plain = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda p: (read.append(p), plain(p))[1])
    assert all(same(store.episode(i), written[i]) for i in range(0, 10, 2))
    chunks = [p.relative_to(store.path).as_posix() for p in read if p.name != "zarr.json"]
    assert sorted(chunks) == [
        "a/data/action/c/0/0",
        "a/data/reward/c/0",
        "a/data/state/c/0/0",
        "a/data/success/c/0",
    ]
    read.clear()
    last = EpisodeStore.open(store.path).steps(["b"]).action[-7:]
    assert np.array_equal(last, written[-1].actions[-7:])
    assert not [p for p in read if "state" in p.parts or "a/data" in p.as_posix()]


def test_an_append_touches_the_last_chunks_only(tmp_path):
    rng = np.random.default_rng(0)

    def recording() -> Episode:
        return Episode.from_arrays(
            {"state": rng.random((50, 2000), np.float32)}, rng.random((50, 2)), "a"
        )

    store = EpisodeStore.create(tmp_path / "s")
    store.append([recording() for _ in range(6)])
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "s").glob("a/data/state/c/*/0")}
    assert len(before) == 3
    store.append([recording()])
    touched = [p for p, t in before.items() if p.stat().st_mtime_ns != t]
    assert [p.parent.name for p in touched] == ["2"]


HOLD = """
import sys, time
from alltrades.data.store import EpisodeStore
store = EpisodeStore.open(sys.argv[1], mode="a")
print("ready", flush=True)
time.sleep(60)
"""


def test_a_second_writer_is_refused_until_the_first_is_killed(tmp_path):
    path = tmp_path / "s"
    EpisodeStore.write(path, [episode(0)])
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None and process.stdout.readline()
        for opened in (lambda: EpisodeStore.open(path, "a"), lambda: EpisodeStore.create(path)):
            with pytest.raises(
                UserError, match=f"store {path} is in use by process {process.pid};"
            ):
                opened()
        assert [e.seed for e in EpisodeStore.open(path).episodes()] == [0]
    finally:
        process.kill()
        process.wait()
    EpisodeStore.open(path, "a").append([episode(1)])
    assert [e.seed for e in EpisodeStore.open(path).episodes()] == [0, 1]


def test_collect_is_refused_in_one_line_while_another_writes(tmp_path, capsys):
    words = ["collect", "--environments", "[planar/reach]", "--demos.episodes", "1"]
    assert cli.main([*words, "--out", str(tmp_path / "s")]) == 0
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "s")], stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None and process.stdout.readline()
        capsys.readouterr()
        assert cli.main([*words, "--out", str(tmp_path / "s")]) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert f"{tmp_path / 's'} is in use by process {process.pid}" in error
    finally:
        process.kill()
        process.wait()
    assert len(EpisodeStore.open(tmp_path / "s")) == 1


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
        EpisodeStore.create(path).append([episode(0)])
        (path / "commit.json").unlink()
    before = {p: p.read_bytes() for p in (path, *path.rglob("*")) if p.is_file()}
    with pytest.raises(UserError, match="expected a new or an empty folder"):
        EpisodeStore.create(path)
    assert before and {p: p.read_bytes() for p in (path, *path.rglob("*")) if p.is_file()} == before


@pytest.mark.parametrize("left", ["nothing", "group", "partial"])
def test_creating_a_store_again_after_a_kill_in_its_middle(tmp_path, left):
    path = tmp_path / "s"
    EpisodeStore.create(path)
    commit = (path / "commit.json").read_bytes()
    (path / "commit.json").unlink()
    if left == "partial":
        (path / ".commit.json.partial").write_bytes(commit[:9])
        (path / ".lock").write_bytes(b"1")
    elif left == "nothing":
        (path / "zarr.json").unlink()
    EpisodeStore.create(path).append([episode(0)])
    assert [e.seed for e in EpisodeStore.open(path).episodes()] == [0]


@pytest.mark.parametrize(
    "change",
    [
        {"rewards": np.zeros(4, np.float32)},
        {"actions": np.full((5, 2), np.nan, np.float32)},
        {"observations": {}},
        {"observations": {"images.front": np.zeros((5, 3, 2))}},
        {"observations": {"state": np.zeros((0, 3))}},
    ],
)
def test_episodes_are_validated_when_made(change):
    good = episode(0)
    with pytest.raises(ValueError, match="episode of 'a'"):
        Episode(**{**good.__dict__, **change})


def test_a_store_that_cannot_be_begun_is_not_left_behind(tmp_path, monkeypatch):
    def broken():
        raise UserError("nothing to read; expected something")
        yield

    path = tmp_path / "demos.zarr"
    with pytest.raises(UserError, match="nothing to read"):
        EpisodeStore.write(path, broken())
    assert not path.exists()
    assert len(EpisodeStore.write(path, [episode(1)])) == 1

    monkeypatch.setattr(store_module, "BATCH", 1)  # rows of a commit

    def cut():
        yield episode(1)
        raise UserError("no more; expected more")

    with pytest.raises(UserError, match="no more"):
        EpisodeStore.write(tmp_path / "cut.zarr", cut())
    assert len(EpisodeStore.open(tmp_path / "cut.zarr")) == 1
