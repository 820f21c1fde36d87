"""Files that claim, link or nest what would lead elsewhere or fill the memory are refused."""

import json

import numpy as np
import pytest

from alltrades.data.formats import open_recording, recording
from alltrades.data.formats.archives import check_zarr
from alltrades.data.formats.mapping import propose
from alltrades.data.formats.recording import Refusal, bounded
from tests.data.formats import made
from tests.data.formats.test_damage import edited, refused
from tests.data.formats.test_import import imported


@pytest.mark.parametrize("place", ["data", "data/demo_0", "data/demo_1"])
@pytest.mark.parametrize("kind", ["external", "soft"])
def test_groups_of_robomimic_that_are_links_are_refused(tmp_path, capsys, place, kind):
    import h5py

    other, file = made.robomimic(tmp_path / "other.hdf5"), made.robomimic(tmp_path / "set.hdf5")
    with h5py.File(file, "a") as opened:
        if kind == "soft":
            opened.move(place, "elsewhere")
            opened[place] = h5py.SoftLink("/elsewhere")
        else:
            del opened[place]
            opened[place] = h5py.ExternalLink(str(other), place)
    assert f"'{place.rpartition('/')[2]}' is a link to" in refused(tmp_path, capsys, file)


def test_groups_of_aloha_that_are_links_are_refused(tmp_path, capsys):
    import h5py

    folder = made.aloha(tmp_path / "set")
    with h5py.File(sorted(folder.iterdir())[0], "a") as opened:
        opened.move("observations", "elsewhere")
        opened["observations"] = h5py.SoftLink("/elsewhere")
    assert "'observations' is a link to '/elsewhere'" in refused(tmp_path, capsys, folder)


def test_hdf5_groups_inside_themselves_are_refused_at_once(tmp_path, capsys):
    import h5py

    with h5py.File(tmp_path / "set.h5", "w") as file:
        file["action"], file["state"] = np.zeros((5, 2)), np.zeros((5, 2))
        group = file.create_group("more")
        for k in range(20):
            group[f"again{k}"] = group
    assert "the group 'more" in refused(tmp_path, capsys, tmp_path / "set.h5")


def test_packed_pictures_of_a_huge_chunk_are_refused_before_they_are_read(
    tmp_path, capsys, monkeypatch
):
    import h5py

    monkeypatch.setattr(recording, "LIMIT", 2**20)
    with h5py.File(tmp_path / "set.h5", "w") as file:
        file["action"] = np.zeros((5, 2))
        file.create_dataset("front", (5, 10**6), "u1", chunks=(5, 10**6), compression="gzip")
    assert "GiB when unpacked" in refused(tmp_path, capsys, tmp_path / "set.h5")


def test_parquet_rows_of_one_value_do_not_fill_the_memory(tmp_path, capsys, monkeypatch):
    import pyarrow as pa
    import pyarrow.parquet as parquet

    rows = 10**6
    source = made.lerobot(tmp_path / "set")
    number = pa.array(np.zeros(rows, np.int64))
    table = {"episode_index": number, "frame_index": number, "action": number}
    file = source / "data/chunk-000/file-000.parquet"
    parquet.write_table(pa.table(table), file)
    assert file.stat().st_size < 2**14
    monkeypatch.setattr(recording, "LIMIT", 2**20)
    assert "GiB when unpacked" in refused(tmp_path, capsys, source)


def test_rows_of_parquet_count_as_they_are_unpacked(tmp_path, capsys, monkeypatch):
    import pyarrow as pa
    import pyarrow.parquet as parquet

    rows = 10**5
    source = made.lerobot(tmp_path / "set")
    flat = pa.FixedSizeListArray.from_arrays(np.zeros(4 * rows, np.float32), 4)
    table = {"episode_index": np.zeros(rows, np.int64), "observation.state": flat, "action": flat}
    parquet.write_table(pa.table(table), source / "data/chunk-000/file-000.parquet")
    monkeypatch.setattr(recording, "LIMIT", 2**20)
    assert "GiB when unpacked" in refused(tmp_path, capsys, source)


@pytest.mark.parametrize("begin", [float("nan"), float("inf"), -1.0])
def test_a_video_whose_episode_begins_nowhere_is_refused(tmp_path, capsys, begin):
    import pyarrow.parquet as parquet

    source = made.lerobot(tmp_path / "set", video=True)
    (file,) = (source / "meta/episodes").glob("**/*.parquet")
    table = parquet.read_table(file)
    name = next(n for n in table.column_names if n.endswith("/from_timestamp"))
    wrong = [begin] * table.num_rows
    at = table.column_names.index(name)
    parquet.write_table(table.set_column(at, name, [wrong]), file)
    assert f"from_timestamp is {begin}" in refused(tmp_path, capsys, source)


@pytest.mark.parametrize("fps", ["Infinity", "NaN", "-3", '"fast"'])
def test_a_rate_that_is_none_is_taken_from_the_time_stamps(tmp_path, fps):
    source = made.lerobot(tmp_path / "set")
    file = source / "meta/info.json"
    facts = json.loads(file.read_text()) | {"fps": json.loads(fps)}
    file.write_text(json.dumps(facts))
    assert imported(tmp_path, source).interfaces()["lab/pick"].control_hz == 10


@pytest.mark.parametrize("fps", ["Infinity", "NaN", "-3", "0", '"fast"'])
def test_a_rate_that_is_none_is_refused_where_time_stamps_tell_none_either(tmp_path, capsys, fps):
    import pyarrow as pa
    import pyarrow.parquet as parquet

    source = made.lerobot(tmp_path / "set")
    info = source / "meta/info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"fps": json.loads(fps)}))
    for file in (source / "data").glob("**/*.parquet"):
        table = parquet.read_table(file)
        at, name = table.column_names.index("timestamp"), "timestamp"
        back = pa.array([-float(x) for x in table[name].to_pylist()], pa.float32())
        parquet.write_table(table.set_column(at, name, back), file)
    assert "steps per second; expected a finite number above 0" in refused(tmp_path, capsys, source)


@pytest.mark.parametrize("rate", [-3, 0, np.inf, np.nan, "20"])
def test_a_rate_that_is_none_is_refused_in_robomimics_files(tmp_path, capsys, rate):
    import h5py

    source = made.robomimic(tmp_path / "low_dim.hdf5")
    with h5py.File(source, "a") as file:
        file["data"].attrs["env_args"] = json.dumps({"env_kwargs": {"control_freq": rate}})
    said = refused(tmp_path, capsys, source)
    assert f"control_freq: {rate!r} steps per second; expected a finite number" in said


@pytest.mark.parametrize("rate", [".inf", "-3", "0", ".nan"])
def test_a_rate_that_is_none_is_refused_in_a_mapping(tmp_path, capsys, rate):
    mapping = tmp_path / "map.yaml"
    mapping.write_text(f"fields: {{state: {{from: state}}}}\ncontrol_hz: {rate}\n")
    source = made.npz(tmp_path / "set")
    assert f"{mapping}: control_hz" in refused(tmp_path, capsys, source, "--map", str(mapping))


def test_codecs_inside_shards_inside_shards_are_looked_at():
    def sharded(*codecs):
        inner = {"chunk_shape": [2], "codecs": list(codecs), "index_codecs": [{"name": "bytes"}]}
        return {"name": "sharding_indexed", "configuration": inner}

    def facts(*codecs):
        grid = {"name": "regular", "configuration": {"chunk_shape": [4]}}
        return {"data_type": "float32", "chunk_grid": grid, "codecs": list(codecs)}

    check_zarr("x", facts(sharded(sharded({"name": "bytes"}, {"name": "zstd"}))))
    with pytest.raises(Refusal, match="packed with 'pickle'"):
        check_zarr("x", facts(sharded(sharded({"name": "numcodecs.pickle"}))))


def test_what_this_machine_has_no_memory_for_is_refused(monkeypatch):
    monkeypatch.setattr(recording, "available_memory", lambda: 2**29)
    bounded("x", 2**28)
    with pytest.raises(Refusal, match="this machine has 0.5 left"):
        bounded("x", 2**30)


def test_a_bag_of_messages_ages_apart_is_refused(tmp_path, capsys):
    from mcap.writer import Writer

    with (tmp_path / "log.mcap").open("wb") as file:
        writer = Writer(file)
        writer.start()
        schema = writer.register_schema("any", "jsonschema", b"{}")
        for topic in ("/pose", "/action"):
            channel = writer.register_channel(topic, "json", schema)
            for at in (0, 10**7, 2 * 10**7, 2**63):
                writer.add_message(channel, at, b'{"data": [1.0]}', at)
        writer.finish()
    assert "GiB when unpacked" in refused(tmp_path, capsys, tmp_path / "log.mcap")


def test_names_of_numbers_that_would_write_to_the_terminal_are_not_kept(tmp_path):
    source = made.lerobot(tmp_path / "set")
    file = source / "meta/info.json"
    facts = json.loads(file.read_text())
    facts["features"]["observation.state"]["names"] = ["x", "\x1b[2J", "z"]
    file.write_text(json.dumps(facts))
    _, found = open_recording(source)
    mapping, _ = propose(found)
    found.close()
    assert mapping.fields["state"].names is None


def test_time_stamps_of_text_or_of_several_numbers_are_none(tmp_path):
    source = edited(made.lerobot(tmp_path / "set"), lambda t: t.drop_columns(["timestamp"]))
    _, found = open_recording(source)
    assert propose(found)[0].timestamp is None
    found.close()
    folder = made.npz(tmp_path / "npz")
    for path in folder.iterdir():
        with np.load(path) as held:
            arrays = dict(held)
        np.savez(path, **arrays, timestamp=np.zeros((len(arrays["action"]), 2)))
    _, found = open_recording(folder)
    mapping, left = propose(found)
    assert mapping.timestamp is None and "timestamp" in left and "timestamp" not in mapping.fields
