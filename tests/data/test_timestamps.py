"""Time stamps of steps: kept where they were measured, on every way in and out of a store."""

from pathlib import Path

import numpy as np
import pytest

from alltrades.cli import main
from alltrades.data.actions import ActionSpec
from alltrades.data.checks.examine import examine_stores
from alltrades.data.episode import Episode
from alltrades.data.formats import open_recording
from alltrades.data.formats.mapping import propose
from alltrades.data.interface import Interface
from alltrades.data.store import EpisodeStore
from tests.data.formats import made
from tests.data.formats.test_import import imported

STEPS = 30


def measured(seed: int) -> np.ndarray:
    """(STEPS,) seconds of a loop at 10 Hz that is a little off, to 1e-4."""
    rng = np.random.default_rng(seed)
    return np.round(np.arange(STEPS) / 10 + 0.004 * rng.uniform(-1, 1, STEPS), 4)


def episode(seed: int, times: np.ndarray | None = None) -> Episode:
    rng = np.random.default_rng(seed)
    state = np.cumsum(rng.normal(0, 0.1, (STEPS, 2)), axis=0)
    return Episode.from_arrays(
        {"state": state}, state + 0.1, "lab/pick", seed=seed, timestamps=times
    )


def kept(path: Path, episodes: list[Episode]) -> EpisodeStore:
    rate = Interface("lab/pick", episodes[0].fields, ActionSpec.unknown(2), control_hz=10.0)
    with EpisodeStore.create(path, [rate]) as store:
        for e in episodes:
            store.append([e])
    return EpisodeStore.open(path)


def stamps(store: EpisodeStore) -> list[np.ndarray | None]:
    return [e.timestamps for e in store.episodes()]


@pytest.fixture(scope="module")
def timed(tmp_path_factory) -> EpisodeStore:
    path = tmp_path_factory.mktemp("timed") / "timed.zarr"
    return kept(path, [episode(i, 1e4 + measured(i)) for i in range(6)])


def test_an_episode_keeps_seconds_from_its_first_step_and_refuses_what_are_no_times():
    found = episode(0, 1.7e9 + measured(0)).timestamps
    assert found is not None and found.dtype == np.float64 and found[0] == 0
    np.testing.assert_allclose(found, measured(0) - measured(0)[0], atol=1e-6)
    for wrong in (measured(0)[:-1], np.full(STEPS, np.nan), np.zeros((STEPS, 1))):
        with pytest.raises(ValueError, match="timestamps"):
            episode(0, wrong)


@pytest.mark.parametrize("which", [(0, 1), (1,), (0,), ()])
def test_episodes_with_and_without_stand_in_one_store(tmp_path, which):
    times = {i: measured(i) for i in which}
    store = kept(tmp_path / "a.zarr", [episode(i, times.get(i)) for i in range(2)])
    for i, found in enumerate(stamps(store)):
        assert (found is None) == (i not in which)
        if found is not None:
            np.testing.assert_array_equal(found, times[i] - times[i][0])
    assert store.timed(np.arange(2)).tolist() == [i in which for i in range(2)]
    assert len(list(tmp_path.glob("a.zarr/*/meta/timestamp"))) == bool(which)


def test_the_digest_tells_time_stamps_and_is_as_ever_without_them(tmp_path, timed):
    plain = kept(tmp_path / "a.zarr", [episode(i) for i in range(6)])
    assert plain.digest() != timed.digest()
    again = EpisodeStore.write(tmp_path / "b.zarr", timed.episodes())
    assert again.digest() == timed.digest()


@pytest.mark.parametrize("kind", ["lerobot", "robomimic", "minari", "diffusion_policy", "npz"])
def test_exports_have_them_and_imports_keep_them(tmp_path, timed, kind):
    out = tmp_path / ("out.hdf5" if kind == "robomimic" else "out")
    assert main(["data", "export", kind, str(timed.path), "--out", str(out)]) == 0
    again = imported(tmp_path, out)
    assert again.interfaces()["lab/pick"].observation.keys() <= {"state", "task"}
    assert again.interfaces()["lab/pick"].control_hz == 10
    for found, expected in zip(stamps(again), stamps(timed), strict=True):
        tolerance = 1e-6 if kind == "lerobot" else 0  # float32 there
        np.testing.assert_allclose(found, expected, atol=tolerance, rtol=0)


def test_an_export_of_episodes_some_of_which_have_none_says_so(tmp_path, capsys):
    store = kept(tmp_path / "a.zarr", [episode(0), episode(1, measured(1))])
    out = tmp_path / "out"
    assert main(["data", "export", "npz", str(store.path), "--out", str(out)]) == 0
    assert "left out: time stamps, which 1 of 2 episodes have" in capsys.readouterr().err
    assert stamps(imported(tmp_path, out)) == [None, None]


def test_a_mapping_says_which_key_they_are_of_and_in_which_unit(tmp_path, capsys):
    (tmp_path / "folder").mkdir()
    for i in range(2):
        np.savez(
            tmp_path / f"folder/{i}.npz",
            state=np.ones((STEPS, 2)),
            action=np.ones((STEPS, 2)),
            timestamp=(1e9 * (1.7e9 + measured(i))).astype(np.int64),
        )
    assert main(["data", "import", str(tmp_path / "folder"), "--dry-run"]) == 0
    said = capsys.readouterr()
    assert "whole numbers: say `timestamp` with `scale`" in said.err
    file = tmp_path / "map.yaml"
    file.write_text(said.out + "timestamp: {from: timestamp, scale: 1.0e-9}\n")
    store = imported(tmp_path, tmp_path / "folder", "--map", str(file))
    for i, found in enumerate(stamps(store)):
        np.testing.assert_allclose(found, measured(i) - measured(i)[0], atol=1e-6)


def test_a_bag_keeps_when_its_commands_were_published(tmp_path):
    source = made.ros2(tmp_path / "bag")
    _, recording = open_recording(source)
    published = propose(recording)[0].timestamp
    recording.close()
    assert published is not None and published.source == "@time"
    (found,) = stamps(imported(tmp_path, source))
    np.testing.assert_allclose(found, np.arange(21) / 20, atol=1e-6)


def test_the_times_of_commands_that_are_rarer_than_the_steps_are_not_kept(tmp_path, capsys):
    source, file = made.ros2(tmp_path / "bag"), tmp_path / "map.yaml"
    _, recording = open_recording(source)
    file.write_text(propose(recording)[0].model_copy(update={"control_hz": 40.0}).to_yaml())
    recording.close()
    (found,) = stamps(imported(tmp_path, source, "--map", str(file)))
    np.testing.assert_allclose(np.diff(found), 1 / 40, atol=1e-6)
    assert "fewer messages than there are steps" in capsys.readouterr().err


def test_data_check_finds_gaps_wrong_order_and_jitter_in_them(tmp_path, timed):
    assert not [f for f in examine_stores([timed], {})[0] if f.kind == "time"]
    times = [measured(i) for i in range(9)]
    times[2][12:] += 0.3
    times[3][20:] += 5
    times[5][[7, 8]] = times[5][[8, 7]]
    times[7] = np.arange(STEPS) / 10 + 0.045 * (np.arange(STEPS) % 2)
    store = kept(tmp_path / "a.zarr", [episode(9), *(episode(i, t) for i, t in enumerate(times))])
    found = [f for f in examine_stores([store], {})[0] if f.kind == "time"]
    said = {(f.severity, f.episode, f.step) for f in found if f.episode != 8}
    expected = {("warning", 3, 12), ("error", 4, 20), ("error", 6, 8)}
    assert expected <= said and {e for _, e, _ in said} == {3, 4, 6}
    assert ["jitters" in f.what for f in found if f.episode == 8] == [True]
    assert all(f.field == "timestamp" for f in found)


def test_data_check_holds_them_against_the_declared_rate(tmp_path):
    store = kept(tmp_path / "a.zarr", [episode(i, 1000 * measured(i)) for i in range(6)])
    (found,) = [f for f in examine_stores([store], {})[0] if f.kind == "time"]
    assert "0.01001 steps in a second, and the rate is declared as 10 Hz" in found.what


def test_a_gap_in_a_lerobot_recording_is_found_once_and_where_it_is(tmp_path, timed):
    times = [measured(i) for i in range(6)]
    times[4][17:] += 1.2
    store = kept(tmp_path / "a.zarr", [episode(i, t) for i, t in enumerate(times)])
    out = tmp_path / "recording"
    assert main(["data", "export", "lerobot", str(store.path), "--out", str(out)]) == 0
    again = imported(tmp_path, out)
    (found,) = [f for f in examine_stores([again], {})[0] if f.kind == "time"]
    assert (found.severity, found.episode, found.step) == ("error", 4, 17)


def test_editing_and_cleaning_keep_them(tmp_path, timed):
    out = tmp_path / "five.zarr"
    words = ["data", "filter", str(timed.path), "--where", "episode != 2", "--out", str(out)]
    assert main(words) == 0
    expected = [t for i, t in enumerate(stamps(timed)) if i != 2]
    for found, known in zip(stamps(EpisodeStore.open(out)), expected, strict=True):
        np.testing.assert_array_equal(found, known)
    still = episode(3)
    held = np.repeat(still.observations["state"][:1], 20, axis=0)
    state = np.concatenate([held, still.observations["state"]])
    long = np.arange(50) / 10
    idle = Episode.from_arrays({"state": state}, state + 0.1, "lab/pick", seed=9, timestamps=long)
    store = kept(tmp_path / "idle.zarr", [*timed.episodes(), idle])
    cut = tmp_path / "cut.zarr"
    main(["data", "check", str(store.path), "--fix", str(cut)])
    last = stamps(EpisodeStore.open(cut))[-1]
    assert last is not None and len(last) < 50
    np.testing.assert_allclose(last, np.arange(len(last)) / 10)


def test_data_info_says_which_episodes_have_some_and_how_even_they_are(tmp_path, capsys):
    even = np.arange(STEPS) / 10
    even[20:] += 0.2
    store = kept(tmp_path / "a.zarr", [episode(0), episode(1, even)])
    assert main(["data", "info", str(store.path)]) == 0
    said = "time stamps: 1 of 2 episodes, 0.1 to 0.3 s from step to step (median 0.1)"
    assert said in capsys.readouterr().out
