"""Thumbnails of `alltrades data info` in a terminal."""

import io
import re

import numpy as np
import pytest

from alltrades import cli
from alltrades.data.episode import Episode
from alltrades.data.store import EpisodeStore
from alltrades.report.view.terminal import HALF, show_thumbnails


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def store(tmp_path):
    frames = np.zeros((5, 8, 16, 3), np.uint8)
    frames[:, :4], frames[:, 4:] = (255, 0, 0), (0, 0, 255)
    depth = np.arange(5 * 6 * 4, dtype=np.uint16).reshape(5, 6, 4, 1)
    episode = Episode.from_arrays({"images.a": frames, "images.d": depth}, None, "lab/arm")
    states = Episode.from_arrays({"state": np.ones((2, 1))}, None, "lab/state")
    return EpisodeStore.write(tmp_path / "s.zarr", [states, episode])


def shown(store, monkeypatch, **environment) -> str:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "COLORTERM", "TERM", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    out = Terminal()
    show_thumbnails(store, out)
    return out.getvalue()


def test_a_terminal_of_true_colours_shows_the_first_middle_and_last_picture(store, monkeypatch):
    text = shown(store, monkeypatch, TERM="xterm-256color", COLORTERM="truecolor", COLUMNS="80")
    head, *lines = text.splitlines()
    assert head == "  lab/arm, images.a at steps 0, 2, 4 of episode 1"
    picture = lines[: next(k for k, line in enumerate(lines) if "images.d" in line)]
    assert len(picture) == 6  # 24 characters wide, 12 pixels high
    assert all(line.count(HALF) == 3 * 24 for line in picture)
    colours = [set(re.findall(r"(?<=2;)\d+;\d+;\d+", line)) for line in picture]
    assert colours == [{"255;0;0"}] * 3 + [{"0;0;255"}] * 3
    assert "images.d at steps 0, 2, 4 of episode 1, 1 to 119" in text


@pytest.mark.parametrize(
    "environment",
    [
        {"TERM": "dumb", "COLORTERM": "truecolor"},
        {"TERM": "xterm-256color", "NO_COLOR": "1"},
        {"TERM": "xterm"},
    ],
)
def test_a_terminal_without_colours_shows_nothing(store, monkeypatch, environment):
    assert shown(store, monkeypatch, **environment) == ""


def test_narrow_terminals_show_narrow_pictures(store, monkeypatch):
    text = shown(store, monkeypatch, TERM="xterm-256color", COLORTERM="24bit", COLUMNS="40")
    bare = re.sub("\x1b\\[[0-9;]*m", "", text)
    assert max(len(line) for line in bare.splitlines() if HALF in line) <= 40


def test_a_pipe_gets_no_pictures(store, monkeypatch, capsys):
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert cli.main(["data", "info", str(store.path)]) == 0
    said = capsys.readouterr().out
    assert "images.a" in said and HALF not in said and "\x1b" not in said
