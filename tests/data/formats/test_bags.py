"""ROS 2 bags and MCAP files: topics at their own rates become steps."""

import numpy as np
import pytest

from alltrades.cli import main
from alltrades.data.formats import open_recording
from alltrades.data.formats.mapping import propose
from tests.data.formats import made
from tests.data.formats.test_import import imported


@pytest.mark.parametrize("mcap", [False, True])
def test_a_ros2_bag_is_put_on_the_rate_of_its_commands(tmp_path, mcap):
    store = imported(tmp_path, made.ros2(tmp_path / "bag", mcap))
    (episode,) = store.episodes()
    interface = store.interfaces()["lab/pick"]
    assert interface.control_hz == 20
    assert interface.observation["joint_states.position"].names == ("lift", "tilt")
    t = np.arange(len(episode)) / 20
    assert len(episode) == 21
    state, image = (episode.observations[n] for n in ("joint_states.position", "camera"))
    np.testing.assert_allclose(state, np.stack([t, -t], 1), atol=1e-6)
    np.testing.assert_allclose(episode.actions, np.stack([t, 2 * t], 1), atol=1e-6)
    shown = np.floor(t * 10 + 1e-6) * 10  # the newest of 10 Hz
    np.testing.assert_array_equal(image[:, 0, 0, 0], shown)
    assert episode.observations["task"] == "open the door"
    assert episode.success and episode.first_success == 21


def test_control_hz_of_the_mapping_is_the_rate_of_the_steps(tmp_path):
    source = made.ros2(tmp_path / "bag")
    _, recording = open_recording(source)
    mapping, _ = propose(recording)
    recording.close()
    file = tmp_path / "map.yaml"
    file.write_text(mapping.model_copy(update={"control_hz": 10.0}).to_yaml())
    (episode,) = imported(tmp_path, source, "--map", str(file)).episodes()
    assert len(episode) == 11
    np.testing.assert_allclose(episode.observations["joint_states.position"][3], [0.3, -0.3])


def test_a_folder_of_bags_is_an_episode_each(tmp_path):
    for k in (1, 2, 10):
        (tmp_path / "bags").mkdir(exist_ok=True)
        made.ros2(tmp_path / f"bags/run_{k}", steps=10 * k)
    store = imported(tmp_path, tmp_path / "bags")
    assert [len(e) for e in store.episodes()] == [11, 21, 101]


def test_an_mcap_of_json_goes_in(tmp_path):
    store = imported(tmp_path, made.mcap_json(tmp_path / "log.mcap"))
    (episode,) = store.episodes()
    np.testing.assert_allclose(episode.observations["pose"][:, 0], np.arange(20))
    np.testing.assert_allclose(episode.actions[:, 0], np.arange(20))
    np.testing.assert_allclose(episode.rewards, np.arange(20) / 10, rtol=1e-6)
    assert store.interfaces()["lab/pick"].observation["pose"].names == ("position.x", "position.y")


def test_a_topic_that_is_silent_for_long_is_named(tmp_path, capsys):
    from mcap.writer import Writer

    with (tmp_path / "log.mcap").open("wb") as file:
        writer = Writer(file)
        writer.start()
        schema = writer.register_schema("any", "jsonschema", b"{}")
        for topic, skipped in (("/pose", range(20, 50)), ("/action", ())):
            channel = writer.register_channel(topic, "json", schema)
            for k in (k for k in range(60) if k not in skipped):
                writer.add_message(channel, k * 10**8, b'{"data": [1.0]}', k * 10**8)
        writer.finish()
    imported(tmp_path, tmp_path / "log.mcap")
    assert "'/pose' is silent for 3.1 s; its last message is held" in capsys.readouterr().err


def test_a_bag_that_was_cut_short_is_refused(tmp_path, capsys):
    file = made.mcap_json(tmp_path / "log.mcap")
    file.write_bytes(file.read_bytes()[:-300])
    words = ["data", "import", str(file), "--environment", "a", "--out", str(tmp_path / "b")]
    assert main(words) == 2
    assert str(file) in capsys.readouterr().err and not (tmp_path / "b").exists()
