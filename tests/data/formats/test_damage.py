"""What is wrong with a recording is one line, and leaves no store; what is plain goes in."""

import json
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from alltrades.cli import main
from alltrades.data.formats import archives, recording
from alltrades.data.store import EpisodeStore
from tests.data.formats import made
from tests.data.formats.test_import import imported, same_numbers

RAN = Path("/tmp/alltrades_ran_a_file")


class Evil:
    """Unpickling this writes a file."""

    def __reduce__(self):
        return (RAN.write_text, ("",))


def refused(tmp_path: Path, capsys, source: Path, *words: str) -> str:
    """The one line with which an import is refused; nothing is left of it."""
    before = {p.name for p in tmp_path.iterdir()}
    out = tmp_path / "never.zarr"
    command = ["data", "import", str(source), "--environment", "lab/pick", "--out", str(out)]
    capsys.readouterr()
    assert main([*command, *words]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len([line for line in said if line.startswith("alltrades:")]) == 1
    assert "Traceback" not in "\n".join(said) and not RAN.exists()
    assert {p.name for p in tmp_path.iterdir()} == before
    return said[-1]


# ---- LeRobot: what deviates ----------------------------------------------------------------------
def parquet_of(folder: Path) -> Path:
    return folder / "data/chunk-000/file-000.parquet"


def edited(folder: Path, change) -> Path:
    """The data set with other rows."""
    import pyarrow.parquet as parquet

    file = parquet_of(folder)
    parquet.write_table(change(parquet.read_table(file)), file)
    return folder


def said_of(tmp_path, capsys, source, *words) -> tuple[EpisodeStore, str]:
    store = imported(tmp_path, source, *words)
    return store, capsys.readouterr().err


def test_missing_videos_are_named_and_left_out(tmp_path, capsys):
    source = made.lerobot(tmp_path / "set", video=True)
    shutil.rmtree(source / "videos")
    store, said = said_of(tmp_path, capsys, source)
    same_numbers(store)
    assert "warning: 'observation.images.front': no videos/ of it" in said


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
@pytest.mark.parametrize(
    "column", ["episode_index", "frame_index", "index", "timestamp", "task_index", "next.done"]
)
def test_missing_bookkeeping_does_not_matter(tmp_path, capsys, version, column):
    store, said = said_of(tmp_path, capsys, made.lerobot(tmp_path / "set", version, drop=(column,)))
    same_numbers(store)
    assert [e.observations["task"] for e in store.episodes()] == ["pick up", "put down", "pick up"]
    if column in ("episode_index", "timestamp", "task_index"):
        assert f"no column '{column}'" in said


def test_time_stamps_count_where_fps_is_wrong(tmp_path, capsys):
    store, said = said_of(tmp_path, capsys, made.lerobot(tmp_path / "set", fps=30))
    assert store.interfaces()["lab/pick"].control_hz == 10
    assert "says fps 30, and time stamps are of 10 Hz" in said


def test_columns_count_where_their_description_is_wrong(tmp_path, capsys):
    source = made.lerobot(tmp_path / "set", total_frames=99)
    info = json.loads((source / "meta/info.json").read_text())
    info["features"]["action"]["dtype"] = "float64"
    info["features"]["observation.state"]["shape"] = [7]
    (source / "meta/info.json").write_text(json.dumps(info))
    (source / "meta/stats.json").write_text(
        json.dumps({"action": {"min": [0, 0], "max": [0.1, 0.1]}})
    )
    store, said = said_of(tmp_path, capsys, source)
    same_numbers(store)
    assert "column 'action' is float, and meta/info.json says float64" in said or (
        "column 'action' is float32, and meta/info.json says float64" in said
    )
    assert "'observation.state' has 3 numbers, and meta/info.json says 7" in said
    assert "total_frames 99; found 21" in said
    assert "statistics of 'action' are stale" in said


def test_lengths_of_the_rows_count(tmp_path, capsys):
    import pyarrow.parquet as parquet

    source = made.lerobot(tmp_path / "set")
    file = source / "meta/episodes/chunk-000/file-000.parquet"
    table = parquet.read_table(file)
    parquet.write_table(table.set_column(1, "length", [[7, 6, 9]]), file)
    store, said = said_of(tmp_path, capsys, source)
    same_numbers(store)
    assert "episode 1 has 5 rows, and meta/ says 6" in said


def test_rows_that_cannot_be_told_apart_are_refused(tmp_path, capsys):
    source = made.lerobot(tmp_path / "set", drop=("episode_index",))
    shutil.rmtree(source / "meta/episodes")
    said = refused(tmp_path, capsys, source)
    assert "file-000.parquet: no column 'episode_index'" in said and "expected 21 rows" in said


def test_numbers_that_are_not_finite_are_refused_by_place(tmp_path, capsys):
    def change(table):
        x = np.asarray(table["action"].to_pylist(), np.float32)
        x[9, 1] = np.nan
        return table.set_column(table.schema.get_field_index("action"), "action", [x.tolist()])

    said = refused(tmp_path, capsys, edited(made.lerobot(tmp_path / "set"), change))
    assert "episode 1: 'action' is not finite at step 2, entry 1" in said


def test_damaged_episodes_can_be_left_out(tmp_path, capsys):
    def change(table):
        x = np.asarray(table["action"].to_pylist(), np.float32)
        x[9, 1] = np.nan
        return table.set_column(table.schema.get_field_index("action"), "action", [x.tolist()])

    source = edited(made.lerobot(tmp_path / "set"), change)
    store, said = said_of(tmp_path, capsys, source, "--skip-damaged")
    assert [len(e) for e in store.episodes()] == [7, 9]
    assert "warning:" in said and "'action' is not finite at step 2" in said
    assert "not finite" in store.provenance["left_out"][0]


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("truncated", "cannot be read"),
        ("no column", "no 'action', which the mapping names"),
        ("null", "column 'action': no value in row 3"),
        ("ragged", "3 numbers in row 4; expected 2"),
        ("text", "'action' is text; expected numbers"),
        ("order", "'frame_index' does not count up"),
        ("twice", "rows of episode 0 stand in two places"),
        ("task", "'task_index' is 9; expected one of meta/: 0, 1"),
        ("empty", "expected at least one"),
        ("info", "cannot be read"),
    ],
)
def test_damaged_lerobot_is_refused_by_name(tmp_path, capsys, what, expected):
    source = made.lerobot(tmp_path / "set")
    file = parquet_of(source)

    def column(name, value):
        edited(source, lambda t: t.set_column(t.schema.get_field_index(name), name, [value]))

    rows = np.zeros((21, 2)).tolist()
    words: tuple[str, ...] = ()
    if what == "truncated":
        file.write_bytes(file.read_bytes()[:-60])
    elif what == "no column":
        mapping = tmp_path / "map.yaml"
        mapping.write_text("fields: {state: {from: observation.state}}\naction: {from: action}")
        edited(source, lambda t: t.drop_columns(["action"]))
        words = ("--map", str(mapping))
    elif what == "null":
        column("action", [*rows[:3], None, *rows[4:]])
    elif what == "ragged":
        column("action", [*rows[:4], [1.0, 2.0, 3.0], *rows[5:]])
    elif what == "text":
        mapping = tmp_path / "map.yaml"
        mapping.write_text("fields: {state: {from: observation.state}}\naction: {from: action}")
        column("action", ["left"] * 21)
        words = ("--map", str(mapping))
    elif what == "order":
        column("frame_index", list(range(21))[::-1])
    elif what == "twice":
        column("episode_index", [0] * 7 + [1] * 5 + [0] * 9)
    elif what == "task":
        column("task_index", [9] * 21)
    elif what == "empty":
        edited(source, lambda t: t.slice(0, 0))
    elif what == "info":
        (source / "meta/info.json").write_text("{")
    assert expected in refused(tmp_path, capsys, source, *words)


def test_a_video_that_ends_early_is_refused_by_its_step(tmp_path, capsys):
    source = made.lerobot(tmp_path / "set", video=True)
    file = source / "videos/observation.images.front/chunk-000/file-000.mp4"
    made.mp4(file, np.concatenate([made.pictures(i) for i in range(3)])[:-2])
    said = refused(tmp_path, capsys, source)
    assert "episode 2: 'observation.images.front'" in said
    assert "step 7 of 9): the video ends; expected one per row" in said


# ---- hostile files -------------------------------------------------------------------------------
def test_pickled_arrays_are_never_unpacked(tmp_path, capsys):
    (tmp_path / "set").mkdir()
    parts = made.numbers()[0]
    np.savez(tmp_path / "set/0.npz", evil=np.array([Evil()], dtype=object), **parts)
    said = refused(tmp_path, capsys, tmp_path / "set", "--map", _mapping(tmp_path, "evil"))
    assert "'evil'" in said


def _mapping(tmp_path: Path, key: str) -> str:
    file = tmp_path / "map.yaml"
    file.write_text(f"fields: {{state: {{from: {key}}}}}\naction: {{from: action}}")
    return str(file)


def test_zarr_arrays_of_objects_are_never_unpacked(tmp_path, capsys):
    source = made.zarr_store(tmp_path / "set.zarr")
    file = source / "data/img/.zarray"
    facts = json.loads(file.read_text())
    facts |= {"dtype": "|O", "filters": [{"id": "pickle"}], "compressor": None}
    file.write_text(json.dumps(facts))
    for chunk in (source / "data/img").glob("[0-9]*"):
        chunk.write_bytes(pickle.dumps([Evil()]))
    store, said = said_of(tmp_path, capsys, source)
    assert not RAN.exists() and "data/img" in said
    assert list(store.interfaces()["lab/pick"].observation) == ["state"]
    facts["dtype"] = "<f4"
    file.write_text(json.dumps(facts))
    shutil.rmtree(tmp_path / "out.zarr")
    _, said = said_of(tmp_path, capsys, source)
    assert not RAN.exists() and "packed with 'pickle', which is not read" in said


@pytest.mark.parametrize("name", ["../escaped", "/tmp/escaped", "a/../../escaped"])
def test_archives_with_names_that_lead_out_are_refused(tmp_path, capsys, name):
    file = tmp_path / "set.zarr.zip"
    made.zarr_store(file)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(name, b"x")
    said = refused(tmp_path, capsys, file)
    assert "a member called" in said and "escaped" in said


def test_bombs_are_refused_before_they_are_unpacked(tmp_path, capsys, monkeypatch):
    for module in (archives, recording):
        monkeypatch.setattr(module, "LIMIT", 2**20)
    (tmp_path / "set").mkdir()
    n = 2**19
    np.savez_compressed(tmp_path / "set/0.npz", state=np.zeros((n, 3)), action=np.zeros((n, 2)))
    assert "GiB when unpacked; expected at most" in refused(tmp_path, capsys, tmp_path / "set")
    import h5py

    with h5py.File(tmp_path / "set.h5", "w") as opened:
        for name in ("state", "action"):
            opened.create_dataset(name, (10**12, 3), "f4", chunks=(100, 3))
    assert "GiB when unpacked" in refused(tmp_path, capsys, tmp_path / "set.h5")
    source = made.zarr_store(tmp_path / "set.zarr")
    for name in ("state", "action", "img"):
        file = source / f"data/{name}/.zarray"
        facts = json.loads(file.read_text())
        facts["chunks"][0] = 10**9
        file.write_text(json.dumps(facts))
    assert "expected at least one" in refused(tmp_path, capsys, source)


@pytest.mark.parametrize("kind", ["external", "soft", "virtual", "raw"])
def test_hdf5_that_reads_other_files_is_refused(tmp_path, capsys, kind):
    import h5py

    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["x"] = np.zeros((5, 2))
    (tmp_path / "raw.bin").write_bytes(bytes(80))
    (tmp_path / "set").mkdir()
    with h5py.File(tmp_path / "set/0.h5", "w") as file:
        file["action"] = np.zeros((5, 2))
        if kind == "external":
            file["state"] = h5py.ExternalLink(str(secret), "x")
        elif kind == "soft":
            file["state"] = h5py.SoftLink("/action")
        elif kind == "virtual":
            layout = h5py.VirtualLayout((5, 2), "f8")
            layout[:] = h5py.VirtualSource(str(secret), "x", (5, 2))
            file.create_virtual_dataset("state", layout)
        else:
            raw = [(str(tmp_path / "raw.bin"), 0, 80)]
            file.create_dataset("state", (5, 2), "f8", external=raw)
    said = refused(tmp_path, capsys, tmp_path / "set")
    assert "'state' is a link to" in said or "'state' has its numbers in another file" in said


def test_a_bag_that_names_files_elsewhere_is_refused(tmp_path, capsys):
    source = made.ros2(tmp_path / "bag")
    file = source / "metadata.yaml"
    file.write_text(file.read_text().replace("bag.db3", "../elsewhere.db3"))
    assert "expected files of the bag's own folder" in refused(tmp_path, capsys, source)


# ---- anything, cut or changed --------------------------------------------------------------------
def every_format(folder: Path) -> dict[str, Path]:
    folder.mkdir(parents=True)
    return {
        "zarr": made.zarr_store(folder / "a.zarr"),
        "zip": made.zarr_store(folder / "b.zarr.zip", 3),
        "lerobot": made.lerobot(folder / "c"),
        "lerobot2": made.lerobot(folder / "d", "v2.1", video=True),
        "robomimic": made.robomimic(folder / "e.hdf5"),
        "aloha": made.aloha(folder / "f", compressed=True),
        "npz": made.npz(folder / "g"),
        "minari": made.minari(folder / "h", "hdf5"),
        "arrow": made.minari(folder / "i", "arrow"),
        "ros2": made.ros2(folder / "j"),
        "mcap": made.mcap_json(folder / "k.mcap"),
    }


def damage(source: Path, rng: np.random.Generator) -> None:
    """Cut one file, change some of its bytes, empty it or remove it."""
    files = [source] if source.is_file() else [p for p in source.rglob("*") if p.is_file()]
    file = sorted(files)[rng.integers(len(files))]
    data = bytearray(file.read_bytes())
    way = rng.integers(4)
    if way == 0:
        data = data[: rng.integers(max(1, len(data)))]
    elif way == 1 and data:
        for place in rng.integers(0, len(data), 8):
            data[place] = rng.integers(256)
    elif way == 2 and data:
        at = rng.integers(len(data))
        data[at : at + 64] = rng.bytes(64)
    elif way == 3 and len(files) > 1:
        file.unlink()
        return
    file.write_bytes(data)


def _many(tmp_path, capfd, count):
    sources = every_format(tmp_path / "whole")
    for k in range(count):
        name = list(sources)[k % len(sources)]
        whole, rng = sources[name], np.random.default_rng(k)
        copy = tmp_path / "copy" / whole.name
        copy.parent.mkdir()
        (shutil.copytree if whole.is_dir() else shutil.copy)(whole, copy)
        damage(copy, rng)
        out = tmp_path / "copy" / "out.zarr"
        words = ["data", "import", str(copy), "--environment", "a/b", "--out", str(out)]
        code = main(words)  # whatever it raises is a failure
        said = capfd.readouterr().err
        assert code in (0, 2), (name, k, said)
        if code == 2:
            assert sum(line.startswith("alltrades:") for line in said.splitlines()) == 1
            assert {p.name for p in copy.parent.iterdir()} <= {copy.name}, (name, k)
        else:
            assert len(EpisodeStore.open(out)) > 0
        shutil.rmtree(copy.parent)


def test_damaged_files_of_every_format_are_one_line_or_go_in(tmp_path, capfd):
    _many(tmp_path, capfd, 55)


@pytest.mark.slow
def test_a_thousand_damaged_files_are_one_line_or_go_in(tmp_path, capfd):
    _many(tmp_path, capfd, 1001)
