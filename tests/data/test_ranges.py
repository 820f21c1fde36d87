"""What `alltrades data info` says of recorded values."""

from dataclasses import replace

import numpy as np

from alltrades import cli
from alltrades.data.actions import ActionSpec
from alltrades.data.episode import Episode
from alltrades.data.fields import Field
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
