"""`alltrades data view --rrd`: what a Rerun recording holds, and when its viewer opens."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from alltrades import cli
from alltrades.data.episode import Episode
from alltrades.data.store import EpisodeStore
from alltrades.report.view import rerun_file, viewer
from alltrades.report.view.episodes import Recordings
from alltrades.report.view.predictions import Predictor
from alltrades.report.view.rerun_file import write_recording
from tests.alltrades.viewing import Counts, write_counted, write_marked, write_mixed


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    return write_mixed(tmp_path_factory.mktemp("view") / "mixed.zarr")


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    return write_counted(tmp_path_factory.mktemp("view") / "counted.zarr")


def printed(path) -> str:
    command = [sys.executable, "-m", "rerun", "rrd", "print", "-vvv", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def logged(text: str, entity: str) -> list[tuple[int, str]]:
    """Step and value of each row of an entity."""
    chunks = [c for c in text.split("Chunk(") if f" - {entity} - " in c.splitlines()[0]]
    found = []
    for chunk in chunks:
        head = next(line for line in chunk.splitlines() if "RowId" in line)
        place = [cell.strip() for cell in re.split("[\u2502\u2506]", head)].index
        columns = [cell.strip() for cell in re.split("[\u2502\u2506]", head)]
        if "step" not in columns or any(name.endswith("Indicator") for name in columns):
            continue
        last = max(k for k, name in enumerate(columns) if name)
        for row in chunk.splitlines():
            cells = [cell.strip() for cell in re.split("[\u2502\u2506]", row)]
            if len(cells) == len(columns) and cells[2].startswith("row_"):
                found.append((int(cells[place("step")]), cells[last]))
    return sorted(found)


def test_a_rerun_recording_has_every_step_of_each_episode(mixed, tmp_path):
    out = tmp_path / "view.rrd"
    assert cli.main(["data", "view", str(mixed), "--rrd", str(out), "--episodes", "0,1,6"]) == 0
    text = printed(out)
    names = ["episode 0 of lab/arm", "episode 1 of lab/camera", "episode 6 of rich"]
    assert sorted(re.findall(r"episode \d+ of [\w/]+", text)) == names
    assert logged(text, "/states/pose") == [
        (0, "[0.0, 1.0]"),
        (1, "[0.5, 1.0]"),
        (2, "[0.25, 1.0]"),
    ]
    alone = [found for found in logged(text, "/action") if "," not in found[1]]
    assert alone == [(0, "[1.0]"), (1, "[2.0]"), (2, "[3.0]")]
    assert len(logged(text, "/action")) == 3 + 9
    assert logged(text, "/outcome/reward") == [(0, "[0.0]"), (1, "[0.0]"), (2, "[2.0]")]
    assert [step for step, _ in logged(text, "/cameras/images.top")] == [0, 1, 2]
    assert len(logged(text, "/cameras/depth")) == 9
    assert "episode 0 of lab/arm, success" in text and "<b>fold</b>" in text


def test_a_rerun_recording_has_the_steps_that_a_person_took(tmp_path):
    store, out = write_marked(tmp_path / "marked.zarr"), tmp_path / "view.rrd"
    assert cli.main(["data", "view", str(store), "--rrd", str(out), "--episodes", "0"]) == 0
    found = [value for _, value in logged(printed(out), "/outcome/intervention")]
    assert found == ["[0.0]", "[1.0]", "[1.0]", "[0.0]"]


def test_a_rerun_recording_has_predicted_chunks_at_their_steps(counted, tmp_path):
    store = EpisodeStore.open(counted)
    predictor = Predictor(store, {"lab/count": Counts()})
    weights = np.arange(12.0) / 4
    recordings = Recordings(store, weights)
    left_out = write_recording(recordings, np.array([0]), tmp_path / "one.rrd", predictor)
    text = printed(tmp_path / "one.rrd")
    assert logged(text, "/action/1/recorded") == [(k, f"[{k}.0]") for k in range(6)]
    assert logged(text, "/action/1/predicted") == [(k, f"[{-100.0 - k}]") for k in range(6)]
    assert logged(text, "/weight/weight")[-1] == (5, "[1.25]")
    assert left_out == []


def test_pictures_of_a_rerun_recording_keep_to_its_bytes(tmp_path, monkeypatch):
    frames = np.random.default_rng(0).integers(0, 256, (40, 30, 30, 3), np.uint8)
    depth = np.ones((40, 10, 10, 1), np.uint16)
    episode = Episode.from_arrays({"images.a": frames, "images.d": depth}, None, "a")
    store = EpisodeStore.write(tmp_path / "s", [episode])
    monkeypatch.setattr(rerun_file, "FILE_BYTES", 4000)
    (said,) = write_recording(Recordings(store), np.array([0]), tmp_path / "one.rrd")
    steps = [step for step, _ in logged(printed(tmp_path / "one.rrd"), "/cameras/images.d")]
    assert len(steps) == 2000 // 200 and (steps[0], steps[-1]) == (0, 39)
    assert re.match(r"6\d pictures are left out, evenly", said)


def test_the_viewer_is_for_this_computer_alone_and_shows_what_was_written(
    mixed, tmp_path, monkeypatch, capfd
):
    monkeypatch.setenv("DISPLAY", ":7")
    ran = []
    monkeypatch.setattr(
        viewer.subprocess,
        "run",
        lambda command, check: ran.append([*command, Path(command[-1]).exists()]),
    )
    assert cli.main(["data", "view", str(mixed), "--web", "--episodes", "1"]) == 0
    ((*command, there),) = ran
    assert command[1:-1] == ["-m", "rerun", "--web-viewer", "--bind", "127.0.0.1"] and there
    assert Path(command[-1]).name == "mixed.rrd" and not Path(command[-1]).exists()


def test_without_a_screen_it_is_said_what_to_do(mixed, tmp_path, monkeypatch, capsys):
    for name in viewer.DISPLAYS:
        monkeypatch.delenv(name, raising=False)
    assert cli.main(["data", "view", str(mixed), "--web"]) == 2
    said = capsys.readouterr().err
    assert "no screen here for --web" in said and "--rrd FILE" in said and said.count("\n") == 1
    out = tmp_path / "one.rrd"
    assert (
        cli.main(["data", "view", str(mixed), "--web", "--rrd", str(out), "--episodes", "1"]) == 0
    )
    assert f"no screen here for --web; open {out} where" in capsys.readouterr().err
    assert out.exists()


@pytest.mark.parametrize(
    "package, option, extra", [("plotly.offline", "--html", "report"), ("rerun", "--rrd", "view")]
)
def test_without_its_extra_it_is_said_how_to_install_it(
    mixed, tmp_path, monkeypatch, capsys, package, option, extra
):
    monkeypatch.setitem(sys.modules, package, None)
    assert cli.main(["data", "view", str(mixed), option, str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said.endswith(f'pip install "alltrades[{extra}]"\n') and said.count("\n") == 1
    assert not (tmp_path / "out").exists()
