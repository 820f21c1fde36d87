"""What `alltrades data info` says of recorded values."""

import shutil
from dataclasses import replace

import numpy as np

from alltrades import cli
from alltrades.data.actions import ActionSpec
from alltrades.data.commit import read_commit, write_commit
from alltrades.data.episode import Episode
from alltrades.data.fields import Field
from alltrades.data.groups import RANGED
from alltrades.data.interface import Interface
from alltrades.data.store import EpisodeStore


def test_info_says_the_range_of_each_number_with_its_name_and_unit(tmp_path, capsys):
    field = Field.state(2, names=("x", "grip"), units=("m", "%"))
    spec = ActionSpec.unknown(1, names=("v",))
    silent = Episode.from_arrays({"pose": [[-7.0, 50.0]]}, None, "lab/arm")
    acted = Episode.from_arrays({"pose": [[1.0, 2.0], [0.5, 99.0]]}, [[3.0], [4.5]], "lab/arm")
    with EpisodeStore.create(
        tmp_path / "s",
        [
            Interface("lab/arm", {"pose": field}, spec),
            Interface("lab/empty", {"pose": field}, spec),
        ],
    ) as store:
        store.append([silent, acted, replace(acted, seed=1)])
    assert cli.main(["data", "info", str(tmp_path / "s")]) == 0
    shown = capsys.readouterr().out
    assert "lab/arm, ranges:\n    pose: x -7 to 1 m; grip 2 to 99 %\n" in shown
    assert "    action: v 3 to 4.5\n" in shown  # not the absent ones as zeros
    assert "lab/empty, ranges" not in shown


def test_info_shows_some_of_very_many_numbers(tmp_path, capsys):
    episode = Episode.from_arrays({"pose": np.ones((2, 40))}, None, "a")
    EpisodeStore.write(tmp_path / "s", [episode])
    assert cli.main(["data", "info", str(tmp_path / "s")]) == 0
    assert "1 to 1 and 16 more" in capsys.readouterr().out


def stretches(seed):
    """Episodes in several appends, of actions that come late, and of two environments."""
    rng = np.random.default_rng(seed)
    for i in range(9):
        n = int(rng.integers(1, 6))
        state = rng.normal(scale=1 + i, size=(n, 3)).astype(np.float32)
        action = rng.normal(scale=1 + i, size=(n, 2)) if i % 3 == 2 else None
        yield Episode.from_arrays({"pose": state, "other": state[:, :1]}, action, "ab"[i % 2])


def without_ranges(path):
    """The store as versions wrote it that kept none."""
    commit = read_commit(path)
    for facts in commit["environments"]:
        del facts["ranges"]
    write_commit(path, commit)


def test_ranges_of_the_commit_are_those_of_the_rows(tmp_path, capsys):
    path, shown = tmp_path / "s", []
    with EpisodeStore.create(path) as store:
        for episode in stretches(0):
            store.append([episode])
    for _ in range(2):
        assert cli.main(["data", "info", str(path)]) == 0
        shown.append(capsys.readouterr().out)
        without_ranges(path) if len(shown) == 1 else None
    assert shown[0] == shown[1]
    assert EpisodeStore.open(path).ranges("a") is None
    with EpisodeStore.open(path, "a") as store:  # what was not known stays so
        store.append(list(stretches(1)))
    assert EpisodeStore.open(path).ranges("a") is None
    store = EpisodeStore.write(tmp_path / "t", stretches(1))
    for name in "ab":
        steps = store.steps([name])
        low, high = store.ranges(name)["data/pose"]
        np.testing.assert_array_equal(low, steps.observation["pose"].load().min(0))
        np.testing.assert_array_equal(high, steps.observation["pose"].load().max(0))
        acted = steps.select(steps.has_actions).action.load()
        np.testing.assert_array_equal(store.ranges(name)["data/action"][1], acted.max(0))


def test_the_index_of_a_store_is_small(tmp_path):
    episodes = [
        Episode.from_arrays({"pose": np.ones((1, 1))}, None, f"lab/{i % 7}", seed=i, source="me")
        for i in range(2000)
    ]
    contents = EpisodeStore.write(tmp_path / "s", episodes)._read()
    arrays = [contents.part, contents.place, contents.start, contents.length, contents.ends]
    arrays += [*contents.of_part, *contents.columns.values()]
    assert sum(a.nbytes for a in arrays) <= 2000 * (75 + 4 * len("lab/0" + "me"))


def test_info_reads_no_rows(tmp_path, capsys):
    store = EpisodeStore.write(tmp_path / "s", stretches(0))
    for name in ("a", "b"):
        shutil.rmtree(store.path / name / "data")
    assert cli.main(["data", "info", str(store.path)]) == 0
    assert "pose: " in capsys.readouterr().out


def test_of_wide_states_the_commit_has_the_first_ranges_alone(tmp_path, capsys):
    path, rows = tmp_path / "wide.zarr", np.arange(3 * 5000.0).reshape(3, 5000)
    EpisodeStore.write(path, [Episode.from_arrays({"state": rows}, np.zeros((3, 1)), "lab/wide")])
    low, high = EpisodeStore.open(path).ranges("lab/wide")["data/state"]
    np.testing.assert_array_equal([low, high], rows[[0, 2], :RANGED])
    assert (path / "commit.json").stat().st_size < 10_000
    assert cli.main(["data", "info", str(path)]) == 0
    assert "23 to 1.002e+04 and 4976 more" in capsys.readouterr().out
