"""robomimic, ALOHA, npz and plain HDF5."""

import numpy as np
import pytest

from alltrades.cli import main
from tests.data.formats import made
from tests.data.formats.test_import import imported, same_numbers


def test_robomimic_arrives_with_cameras_rate_and_without_the_simulators_state(tmp_path):
    store = imported(tmp_path, made.robomimic(tmp_path / "low_dim.hdf5", instruction=True))
    same_numbers(store, success=False)
    interface = store.interfaces()["lab/pick"]
    assert list(interface.observation) == ["front_image", "state", "task"]
    assert interface.control_hz == 20
    for found, expected in zip(store.episodes(), made.numbers()):
        np.testing.assert_array_equal(found.observations["front_image"], expected["images"])
        np.testing.assert_array_equal(found.rewards, expected["reward"])
    assert [e.observations["task"] for e in store.episodes()] == ["pick up", "put down", "pick up"]


def test_a_filter_key_chooses_demonstrations(tmp_path, capsys):
    source = made.robomimic(tmp_path / "low_dim.hdf5")
    store = imported(tmp_path, source, "--subset", "train")
    assert [len(e) for e in store.episodes()] == [7, 9]
    words = ["data", "import", str(source), "--environment", "a", "--out", str(tmp_path / "b")]
    assert main([*words, "--subset", "trane"]) == 2
    assert "no filter key 'trane'; expected one of train" in capsys.readouterr().err


@pytest.mark.parametrize("compressed", [False, True])
def test_aloha_arrives_with_cameras_packed_or_not(tmp_path, compressed):
    store = imported(tmp_path, made.aloha(tmp_path / "set", compressed))
    assert len(store) == 3
    for i, (found, given) in enumerate(zip(store.episodes(), made.numbers())):
        np.testing.assert_array_equal(found.observations["qpos"], given["state"])
        np.testing.assert_array_equal(found.actions, given["action"])
        image = found.observations["images.top"]
        if compressed:
            assert np.abs(image.astype(int) - made.pictures(i)).max() <= 3
        else:
            np.testing.assert_array_equal(image, given["images"])


@pytest.mark.parametrize("kind", ["npz", "groups", "files"])
def test_plain_files_arrive_by_the_names_of_their_arrays(tmp_path, kind):
    if kind == "npz":
        source = made.npz(tmp_path / "set")
    else:
        groups = kind == "groups"
        source = made.hdf5(tmp_path / ("set.h5" if groups else "set"), groups)
    store = imported(tmp_path, source)
    same_numbers(store)
    assert [e.observations["task"] for e in store.episodes()] == ["pick up", "put down", "pick up"]


def test_one_npz_file_is_cut_by_its_episode_ends(tmp_path):
    parts = made.numbers()
    whole = {k: np.concatenate([e[k] for e in parts]) for k in parts[0]}
    np.savez(tmp_path / "all.npz", episode_ends=np.cumsum(made.LENGTHS), **whole)
    same_numbers(imported(tmp_path, tmp_path / "all.npz"))
