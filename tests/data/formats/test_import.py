"""Recordings become stores: by themselves, by a mapping, again after a kill."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from alltrades.cli import main
from alltrades.data.store import EpisodeStore
from tests.data.formats import made

PUBLIC = os.environ.get("ALLTRADES_TEST_DATA")


def imported(tmp_path: Path, source: Path, *words: str) -> EpisodeStore:
    out = tmp_path / "out.zarr"
    command = ["data", "import", str(source), "--environment", "lab/pick", "--out", str(out)]
    assert main([*command, *words]) == 0
    return EpisodeStore.open(out)


def same_numbers(store: EpisodeStore, success: bool = True) -> None:
    """The store has the episodes of `made.numbers`."""
    assert len(store) == 3
    for found, expected in zip(store.episodes(), made.numbers()):
        np.testing.assert_array_equal(found.observations["state"], expected["state"])
        np.testing.assert_array_equal(found.actions, expected["action"])
        if success:
            np.testing.assert_array_equal(found.rewards, expected["reward"])
            assert found.first_success == len(found) and found.success


@pytest.mark.parametrize("name", ["a.zarr", "a.zarr.zip"])
@pytest.mark.parametrize("version", [2, 3])
def test_diffusion_policy_zarr_arrives_whole(tmp_path, name, version):
    store = imported(tmp_path, made.zarr_store(tmp_path / name, version))
    same_numbers(store, success=False)
    for found, expected in zip(store.episodes(), made.numbers()):
        np.testing.assert_array_equal(found.observations["img"], expected["images"])


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_lerobot_arrives_with_names_rate_reward_success_and_instruction(tmp_path, version):
    store = imported(tmp_path, made.lerobot(tmp_path / "set", version))
    same_numbers(store)
    interface = store.interfaces()["lab/pick"]
    assert interface.observation["state"].names == ("x", "y", "z")
    assert interface.action.names == ("left", "right") and interface.control_hz == 10
    assert [e.observations["task"] for e in store.episodes()] == ["pick up", "put down", "pick up"]


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_lerobot_cameras_arrive_frame_by_frame(tmp_path, version):
    store = imported(tmp_path, made.lerobot(tmp_path / "set", version, video=True))
    for i, episode in enumerate(store.episodes()):
        found = episode.observations["images.front"]
        assert found.dtype == np.uint8
        assert np.abs(found.astype(int) - made.pictures(i)).max() <= 3  # of 6 between two frames


def test_tasks_become_environments(tmp_path):
    store = imported(tmp_path, made.lerobot(tmp_path / "set"), "--tasks", "environments")
    names = [e.environment for e in store.episodes()]
    assert names == ["lab/pick-pick-up", "lab/pick-put-down", "lab/pick-pick-up"]
    assert all("task" not in e.observations for e in store.episodes())


def test_what_a_dry_run_prints_is_the_mapping_that_is_used(tmp_path, capsys):
    source = made.lerobot(tmp_path / "set")
    assert main(["data", "import", str(source), "--dry-run"]) == 0
    said = capsys.readouterr()
    assert "lerobot, 3 episodes, 10 Hz" in said.err and "left out: frame_index" in said.err
    assert yaml.safe_load(said.out)["timestamp"] == {"from": "timestamp"}
    file = tmp_path / "map.yaml"
    file.write_text(said.out)
    same_numbers(imported(tmp_path, source, "--map", str(file)))
    assert list(yaml.safe_load(said.out)["fields"]) == ["state", "task"]


def test_a_mapping_slices_turns_scales_and_names(tmp_path):
    file = tmp_path / "map.yaml"
    file.write_text(
        """
fields:
  pose:
    parts:
      - {from: observation.state, dims: "0:2", scale: 0.001}
      - {from: observation.state, rotation: {from: rpy, to: rot6d}}
    names: [x, y, a, b, c, d, e, f]
    units: m
  task: {text: fold the towel}
action: {from: action, dims: [1]}
success: {from: next.reward, above: 0.5}
control_hz: 5
"""
    )
    store = imported(tmp_path, made.lerobot(tmp_path / "set"), "--map", str(file))
    for found, given in zip(store.episodes(), made.numbers()):
        pose = found.observations["pose"]
        np.testing.assert_allclose(pose[:, :2], given["state"][:, :2] * 0.001, rtol=1e-6)
        yaw, pitch = given["state"][:, 2], given["state"][:, 1]
        first = np.stack([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), -np.sin(pitch)])
        np.testing.assert_allclose(pose[:, 2:5], first.T, atol=1e-6)
        np.testing.assert_array_equal(found.actions, given["action"][:, 1:])
        np.testing.assert_array_equal(found.successes, given["reward"] > 0.5)
        assert found.observations["task"] == "fold the towel"
    interface = store.interfaces()["lab/pick"]
    assert interface.control_hz == 5 and interface.observation["pose"].units == ("m",) * 8


KILLED = """
import os, signal, sys
from alltrades.data.formats import importing
importing.PART = 1
written = importing.Import._write
def write(self, store, part, declared):
    written(self, store, part, declared)
    if len(store) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
importing.Import._write = write
from alltrades.cli import main
main(sys.argv[1:])
"""


def test_a_killed_import_goes_on_and_ends_the_same(tmp_path):
    source = made.lerobot(tmp_path / "set", video=True, total_frames=3)
    whole = imported(tmp_path, source)
    out = tmp_path / "again.zarr"
    words = ["data", "import", str(source), "--environment", "lab/pick", "--out", str(out)]
    done = subprocess.run([sys.executable, "-c", KILLED, *words])
    assert done.returncode == -signal.SIGKILL
    assert not out.exists()
    assert main(words) == 0
    store = EpisodeStore.open(out)
    assert store.digest() == whole.digest() and store.interfaces() == whole.interfaces()
    assert store.provenance == whole.provenance and len(store.provenance["warnings"]) == 1
    assert {p.name for p in tmp_path.iterdir()} == {"set", "out.zarr", "again.zarr"}


@pytest.mark.skipif(PUBLIC is None, reason="ALLTRADES_TEST_DATA names no folder of recordings")
def test_published_pusht_is_the_same_from_both_formats(tmp_path):
    stores = []
    for name in ("pusht_lowdim.zarr", "pusht_lerobot_v3"):
        (tmp_path / name).mkdir()
        stores.append(imported(tmp_path / name, Path(str(PUBLIC)) / name))
    a, b = stores
    np.testing.assert_array_equal(a.episode_ends, b.episode_ends)
    for x, y in zip(a.episodes(), b.episodes()):
        np.testing.assert_array_equal(x.actions, y.actions)
        np.testing.assert_array_equal(x.observations["state"][:, :2], y.observations["state"])
