"""Stores go out into every format and come back the same."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from alltrades.cli import main
from alltrades.data.actions import ActionSpec
from alltrades.data.episode import Episode
from alltrades.data.fields import Field
from alltrades.data.formats.exporting import Export
from alltrades.data.interface import Interface
from alltrades.data.store import EpisodeStore
from alltrades.errors import UserError
from tests.data.formats import made
from tests.data.formats.test_import import imported

LEROBOT = find_spec("lerobot") is not None


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> EpisodeStore:
    """Episodes with two states, a camera, depth, an instruction, and another text."""
    path = tmp_path_factory.mktemp("exported") / "store.zarr"
    rng = np.random.default_rng(1)
    episodes = []
    for i, e in enumerate(made.numbers()):
        seen = {
            "state": e["state"],
            "gripper": e["state"][:, :1] * 2,
            "images.front": e["images"],
            "images.depth": rng.integers(0, 60000, (len(e["state"]), 6, 8, 1)).astype(np.uint16),
            "task": made.TASKS[i % 2],
            "operator": "someone",
        }
        episodes.append(
            Episode.from_arrays(seen, e["action"], "lab/pick", e["reward"], e["success"], seed=i)
        )
    fields = dict(episodes[0].fields) | {"state": Field.state(3, names=("x", "y", "z"))}
    action = ActionSpec.unknown(2, names=("left", "right"))
    with EpisodeStore.create(path) as made_:
        made_.declare([Interface("lab/pick", fields, action, control_hz=10.0)])
        made_.append(episodes)
    return EpisodeStore.open(path)


def exported(tmp_path: Path, store: EpisodeStore, kind: str, *words: str) -> Path:
    out = tmp_path / ("out.hdf5" if kind == "robomimic" else "out")
    assert main(["data", "export", kind, str(store.path), "--out", str(out), *words]) == 0
    return out


@pytest.mark.parametrize("kind", ["robomimic", "minari"])
def test_a_text_that_a_format_cannot_keep_is_one_line(tmp_path, capsys, kind):
    episode = Episode.from_arrays(
        {"x": np.zeros((3, 2)), "task": "a\0b"}, np.zeros((3, 1)), "lab/a"
    )
    store = EpisodeStore.write(tmp_path / "s.zarr", [episode])
    out = tmp_path / ("out.hdf5" if kind == "robomimic" else "out")
    assert main(["data", "export", kind, str(store.path), "--out", str(out)]) == 2
    assert "holds a NUL character" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("kind", ["lerobot", "robomimic", "minari", "diffusion_policy", "npz"])
def test_paths_may_be_relative_and_of_any_name_that_is_found_again(
    tmp_path, store, kind, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    words = ["data", "export", kind, str(store.path), "--out", "out"]
    if kind == "robomimic":
        assert main(words) == 2
        assert "expected a name that ends in .hdf5" in capsys.readouterr().err
        words[-1] = "out.hdf5"
    assert main(words) == 0
    assert len(imported(tmp_path, Path(words[-1]))) == len(store)


@pytest.mark.parametrize("kind", ["lerobot", "robomimic", "minari", "diffusion_policy", "npz"])
def test_every_field_comes_back(tmp_path, store, kind):
    out = exported(tmp_path, store, kind)
    assert {p.name for p in tmp_path.iterdir()} == {out.name}
    again = imported(tmp_path, out)
    assert len(again) == len(store)
    for found, expected in zip(again.episodes(), store.episodes()):
        texts = {"task", "operator"} if kind == "diffusion_policy" else set()
        assert set(found.observations) == set(expected.observations) - texts
        for name, value in found.observations.items():
            np.testing.assert_array_equal(value, expected.observations[name], err_msg=name)
            if not isinstance(value, str):
                assert value.dtype == expected.observations[name].dtype
        np.testing.assert_array_equal(found.actions, expected.actions)
        np.testing.assert_array_equal(found.rewards, expected.rewards)
        np.testing.assert_array_equal(found.successes, expected.successes)
        assert found.success == expected.success
    if kind in ("lerobot", "robomimic"):
        assert again.interfaces()["lab/pick"].control_hz == 10
    if kind == "lerobot":
        interface = again.interfaces()["lab/pick"]
        assert interface.observation["state"].names == ("x", "y", "z")
        assert interface.action.names == ("left", "right")


def told_episodes(texts):
    """Three that are told a red thing, a blue one and a red one again, in these fields."""
    return [
        Episode.from_arrays(
            {"state": np.zeros((3, 2)), **{name: f"{name} {word}" for name in texts}},
            np.zeros((3, 1)),
            "lab/pick",
        )
        for word in ("red", "blue", "red")
    ]


TEXTS = (("instruction",), ("task",), ("prompt",), ("task", "instruction"), ("prompt", "who"), ())


@pytest.mark.parametrize("texts", TEXTS)
@pytest.mark.parametrize("kind", ["lerobot", "robomimic", "minari", "npz"])
def test_texts_come_back_under_their_names_and_none_is_added(tmp_path, kind, texts):
    episodes = told_episodes(texts)
    store = EpisodeStore.write(tmp_path / "store.zarr", episodes)
    out = exported(tmp_path, store, kind, "--rate", "10")
    for found, expected in zip(imported(tmp_path, out).episodes(), episodes, strict=True):
        seen = {k: v for k, v in found.observations.items() if k != "state"}
        assert seen == {name: expected.observations[name] for name in texts}


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        (("who", "instruction"), "instruction"),
        (("prompt",), "prompt"),
        (("prompt", "who"), None),
        ((), None),
    ],
)
def test_lerobots_tasks_are_the_instructions_or_the_only_texts(tmp_path, texts, told):
    import pyarrow.parquet as parquet

    episodes = told_episodes(texts)
    store = EpisodeStore.write(tmp_path / "store.zarr", episodes)
    out = exported(tmp_path, store, "lerobot", "--rate", "10")
    tasks = parquet.read_table(out / "meta/tasks.parquet").to_pydict()["__index_level_0__"]
    assert tasks == (["lab/pick"] if told is None else [f"{told} red", f"{told} blue"])
    columns = parquet.read_schema(out / "data/chunk-000/file-000.parquet").names
    assert {c for c in columns if c.removeprefix("observation.") in texts} == {
        f"observation.{name}" for name in texts if name != told
    }


@pytest.mark.parametrize("name", ["done", "obs", "obs.x", "action.left", "episode_ends"])
@pytest.mark.parametrize("kind", ["lerobot", "robomimic", "minari", "diffusion_policy", "npz"])
def test_a_field_comes_back_under_its_name_or_is_refused(tmp_path, kind, name, capsys):
    seen = {"q": np.zeros((3, 2)), name: np.ones((3, 2))}
    store = tmp_path / "store.zarr"
    EpisodeStore.write(store, [Episode.from_arrays(seen, np.zeros((3, 1)), "lab/pick")])
    out = tmp_path / "out.hdf5"
    if main(["data", "export", kind, str(store), "--out", str(out), "--rate", "10"]) == 0:
        assert set(next(imported(tmp_path, out).episodes()).observations) == set(seen)
    else:
        assert f"a field called '{name}', which {kind} would not" in capsys.readouterr().err
        assert not out.exists()


@pytest.mark.parametrize("kind", ["lerobot", "robomimic", "minari", "npz"])
def test_an_exports_instructions_tell_its_tasks_apart(tmp_path, kind):
    episodes = [
        Episode.from_arrays(
            {"state": np.zeros((3, 2)), "instruction": text}, np.zeros((3, 1)), "lab/pick"
        )
        for text in ("go red", "go blue")
    ]
    store = EpisodeStore.write(tmp_path / "store.zarr", episodes)
    out = exported(tmp_path, store, kind, "--rate", "10")
    again = imported(tmp_path, out, "--tasks", "environments")
    assert sorted(again.interfaces()) == ["lab/pick-go-blue", "lab/pick-go-red"]
    assert all(set(e.observations) == {"state"} for e in again.episodes())


@pytest.mark.parametrize("kind", ["lerobot", "robomimic", "minari", "diffusion_policy", "npz"])
def test_marks_of_interventions_come_back_where_all_episodes_have_some(tmp_path, kind, capsys):
    rng = np.random.default_rng(0)
    taken = [np.array([0, 1, 1, 0, 1], bool), np.zeros(4, bool)]
    episodes = [
        Episode.from_arrays(
            {"state": rng.normal(size=(len(t), 2))}, np.zeros((len(t), 1)), "a", interventions=t
        )
        for t in taken
    ]
    store = EpisodeStore.write(tmp_path / "all.zarr", episodes)
    out = exported(tmp_path, store, kind, "--rate", "10")
    again = imported(tmp_path, out)
    for found, expected in zip(again.episodes(), taken):
        assert found.interventions.tolist() == expected.tolist()
        assert set(found.observations) == {"state"}
    (tmp_path / "some").mkdir()
    some = [episodes[0], replace(episodes[1], interventions=None)]
    mixed = EpisodeStore.write(tmp_path / "some.zarr", some)
    capsys.readouterr()
    exported(tmp_path / "some", mixed, kind, "--rate", "10")
    assert "marks of interventions, which 1 of 2 episodes have" in capsys.readouterr().err


def test_lerobot_to_a_store_and_back_is_equal_in_every_column(tmp_path):
    import pyarrow.parquet as parquet

    source = made.lerobot(tmp_path / "set")
    out = exported(tmp_path, imported(tmp_path, source), "lerobot")
    before, after = (
        parquet.read_table(f / "data/chunk-000/file-000.parquet") for f in (source, out)
    )
    for name in before.column_names:
        assert before[name].to_pylist() == after[name].to_pylist(), name
        assert before.schema.field(name).type == after.schema.field(name).type, name
    assert set(after.column_names) == set(before.column_names)
    for file in ("meta/tasks.parquet", "meta/episodes/chunk-000/file-000.parquet"):
        a, b = (parquet.read_table(f / file).to_pydict() for f in (source, out))
        assert {k: b[k] for k in a} == a


def test_success_that_nobody_recorded_is_not_written(tmp_path):
    source = tmp_path / "plain.zarr"
    seen = {"state": np.zeros((4, 2))}
    EpisodeStore.write(source, [Episode.from_arrays(seen, np.ones((4, 1)), "lab/pick")])
    out = exported(tmp_path, EpisodeStore.open(source), "lerobot", "--rate", "5")
    assert next(imported(tmp_path, out).episodes()).success is None


def test_minari_itself_reads_what_is_written(tmp_path, store):
    import minari

    found = minari.MinariDataset(exported(tmp_path, store, "minari") / "data")
    assert found.total_episodes == 3
    for one, expected in zip(found.iterate_episodes(), store.episodes()):
        np.testing.assert_array_equal(
            one.observations["state"][:-1], expected.observations["state"]
        )
        np.testing.assert_array_equal(one.actions, expected.actions)


def test_pandas_reads_the_tasks_by_name(tmp_path, store):
    import json

    import pyarrow.parquet as parquet

    out = exported(tmp_path, store, "lerobot")
    facts = json.loads(parquet.read_schema(out / "meta/tasks.parquet").metadata[b"pandas"])
    assert facts["index_columns"] == ["__index_level_0__"]


@pytest.mark.skipif(not LEROBOT, reason="needs the package lerobot, for Python 3.12 and later")
def test_lerobot_itself_loads_it_and_trains_ten_steps(tmp_path, store):
    import torch
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    data = LeRobotDataset("lab/pick", root=exported(tmp_path, store, "lerobot"))
    assert (data.num_episodes, data.num_frames) == (3, sum(made.LENGTHS))
    first = next(store.episodes())
    np.testing.assert_allclose(data[0]["observation.state"], first.observations["state"][0])
    assert data[0]["task"] == "pick up"
    network = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(network.parameters())
    loader = iter(torch.utils.data.DataLoader(data, batch_size=2))
    for _ in range(10):
        batch = next(loader)
        loss = (network(batch["observation.state"]) - batch["action"]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.isfinite(loss)


@pytest.mark.parametrize("rate", ["-3", "0", "nan", "inf", "fast"])
def test_a_rate_that_is_none_is_refused_in_one_line(tmp_path, store, rate, capsys):
    words = ["data", "export", "lerobot", str(store.path), "--out", str(tmp_path / "o")]
    assert main([*words, f"--rate={rate}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{rate}; expected a finite number above 0" in line
    assert list(tmp_path.iterdir()) == []
    if rate != "fast":
        with pytest.raises(UserError, match="expected a finite number above 0"):
            Export.of(store, None, float(rate))


def test_exports_that_cannot_be_are_refused(tmp_path, store, capsys):
    def said(*words: str) -> str:
        before = sorted(tmp_path.iterdir())
        assert main(["data", "export", *words, "--out", str(tmp_path / "o")]) == 2
        assert sorted(tmp_path.iterdir()) == before
        return capsys.readouterr().err

    assert "no episodes of 'lab/pik'" in said("npz", str(store.path), "--environment", "lab/pik")
    plain = tmp_path / "plain.zarr"
    seen = {"state": np.zeros((4, 2))}
    one, two = (Episode.from_arrays(seen, np.ones((4, 1)), e) for e in ("lab/a", "lab/b"))
    EpisodeStore.write(plain, [one, two])
    assert "environments lab/a, lab/b; expected one" in said("npz", str(plain))
    assert "no control rate" in said("lerobot", str(plain), "--environment", "lab/a")
    silent = tmp_path / "silent.zarr"
    EpisodeStore.write(silent, [Episode.from_arrays(seen, None, "lab/a")])
    assert "1 of 1 episodes of 'lab/a' have no actions" in said("npz", str(silent))


def test_a_ros2_bag_goes_in_and_comes_out_as_lerobot(tmp_path):
    whole = imported(tmp_path, made.ros2(tmp_path / "bag"))
    out = exported(tmp_path, whole, "lerobot")
    (tmp_path / "again").mkdir()
    again = imported(tmp_path / "again", out)
    (a,), (b,) = whole.episodes(), again.episodes()
    assert set(a.observations) == set(b.observations)
    for name, value in a.observations.items():
        np.testing.assert_array_equal(value, b.observations[name])
    np.testing.assert_array_equal(a.actions, b.actions)
    assert again.interfaces()["lab/pick"].control_hz == 20


@pytest.fixture(scope="module")
def filmed(tmp_path_factory) -> EpisodeStore:
    """Three episodes of smooth pictures, of even and of odd sides, and depth."""
    y, x = np.mgrid[:64, :80]
    episodes = []
    for i, steps in enumerate((7, 5, 9)):
        t = np.arange(steps)[:, None, None]
        wave = 120 + 90 * np.sin((x + 4 * t + 30 * i) / 11) * np.cos(y / 9)
        front = np.repeat(wave[..., None], 3, axis=3).astype(np.uint8)
        seen = {
            "state": np.arange(2.0 * steps).reshape(steps, 2),
            "images.front": front,
            "images.wrist": front[:, :33, :41],
            "images.depth": (wave[..., None] * 100).astype(np.uint16),
        }
        even = np.arange(steps) / 10
        times = even + 0.01 * (even == 0.2) if i == 1 else even
        episodes.append(
            Episode.from_arrays(seen, np.ones((steps, 2)), "lab/pick", seed=i, timestamps=times)
        )
    path = tmp_path_factory.mktemp("filmed") / "store.zarr"
    return EpisodeStore.write(path, episodes)


def test_cameras_go_out_as_videos_whose_frames_stand_at_the_time_stamps_of_their_rows(
    tmp_path, filmed, capsys
):
    """As LeRobot reads v3.0: by the path in info.json, and the row's time from where its episode
    begins, within 1e-4 s.
    """
    import json

    import av
    import pyarrow.parquet as parquet

    out = exported(tmp_path, filmed, "lerobot", "--rate", "10", "--video")
    said = capsys.readouterr().err
    assert "loss: observation.images.front as h264: pixels are" in said
    assert "left out: measured time stamps of 1 episodes" in said
    info = json.loads((out / "meta/info.json").read_text())
    rows = parquet.read_table(out / "data").to_pydict()
    episodes = parquet.read_table(out / "meta/episodes").to_pydict()
    assert "observation.images.front" not in rows and "observation.images.depth" in rows
    stats = json.loads((out / "meta/stats.json").read_text())
    far = max(e.observations["images.depth"].max() for e in filmed.episodes())
    assert stats["observation.images.depth"]["max"] == [[[far]]]  # a policy is given millimetres
    assert 0.5 < stats["observation.images.front"]["max"][0][0][0] <= 1
    owner, stamps = (np.array(rows[name]) for name in ("episode_index", "timestamp"))
    for name in ("images.front", "images.wrist"):
        key = f"observation.{name}"
        assert info["features"][key]["dtype"] == "video"
        assert info["features"][key]["info"]["video.codec"] == "h264"
        file = out / info["video_path"].format(video_key=key, chunk_index=0, file_index=0)
        with av.open(str(file)) as container:
            frames = list(container.decode(video=0))
        times = np.array([f.time for f in frames])
        pictures = np.stack([f.to_ndarray(format="rgb24") for f in frames])
        for i, expected in enumerate(filmed.episodes()):
            query = episodes[f"videos/{key}/from_timestamp"][i] + stamps[owner == i]
            near = np.abs(times - query[:, None])
            assert (near.min(1) <= 1e-4).all()
            off = np.abs(pictures[near.argmin(1)].astype(int) - expected.observations[name])
            assert off.mean() < 4
        assert episodes[f"videos/{key}/to_timestamp"][-1] == pytest.approx(2.1)


@pytest.mark.parametrize("codec", ["h264", "av1"])
def test_videos_come_back_nearly_and_everything_else_equal(tmp_path, filmed, capsys, codec):
    if codec == "av1":
        even = tmp_path / "even.zarr"
        EpisodeStore.write(
            even,
            (
                replace(
                    e, observations={k: v for k, v in e.observations.items() if k != "images.wrist"}
                )
                for e in filmed.episodes()
            ),
        )
        filmed = EpisodeStore.open(even)
    again = imported(
        tmp_path, exported(tmp_path, filmed, "lerobot", "--rate", "10", "--video", codec)
    )
    for found, expected in zip(again.episodes(), filmed.episodes(), strict=True):
        for name, value in expected.observations.items():
            if name in ("images.front", "images.wrist"):
                off = np.abs(found.observations[name].astype(int) - value)
                assert off.shape == value.shape and 0 < off.mean() < 4
            else:
                np.testing.assert_array_equal(found.observations[name], value)


def test_videos_that_cannot_be_are_refused_in_one_line_and_leave_nothing(tmp_path, filmed, capsys):
    words = ["data", "export", "npz", str(filmed.path), "--out", str(tmp_path / "a"), "--video"]
    assert main(words) == 2
    assert "--video: npz has no videos; expected lerobot" in capsys.readouterr().err
    words[2] = "lerobot"
    assert main([*words, "av1", "--rate", "10"]) == 2
    assert "'images.wrist' has pictures of 33 x 41; expected even sides" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
