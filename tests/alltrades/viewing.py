"""Stores to look at, a policy, and a page that is read as a browser would."""

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from alltrades import cli
from alltrades.data.actions import ActionSpec
from alltrades.data.episode import Episode
from alltrades.data.fields import Field
from alltrades.data.interface import Interface
from alltrades.data.store import EpisodeStore
from alltrades.policies.acting import ActingPolicy
from tests.data.stores import TEXTS, rich_episode

EVIL = "</script><script>alert('x')</script> & <b>fold</b> \u2028 \U0001f9be"


class Page(HTMLParser):
    """Cells of the list, and the JSON of each episode."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.cells: list[list[str]] = []
        self.scripts: dict[str, str] = {}
        self.tags: list[str] = []
        self._at: str | None = None
        self.feed(text)
        head, *rows = self.cells
        self.rows = [dict(zip(head, row)) for row in rows]
        self.episodes = {
            int(name.split("-")[1]): json.loads(text) for name, text in self.scripts.items()
        }

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        self.tags.append(tag)
        if tag == "tr":
            self.cells.append([])
        elif tag in ("th", "td"):
            self.cells[-1].append("")
        if tag != "button":
            self._at = tag
        if tag == "script" and named.get("type") == "application/json":
            self._at = named["id"]
            self.scripts[self._at] = ""

    def handle_endtag(self, tag):
        if tag in ("script", "table", "td", "th"):
            self._at = None

    def handle_data(self, data):
        if self._at in self.scripts:
            self.scripts[self._at] += data
        elif self._at in ("th", "td"):
            self.cells[-1][-1] += data


def view(store, *options) -> Page:
    out = store.parent / "page.html"
    assert cli.main(["data", "view", str(store), "--html", str(out), *options]) == 0
    return Page(out.read_text(encoding="utf-8"))


def write_mixed(path: Path) -> Path:
    """Environments with different fields: one without actions and success, one without images."""
    arm = Interface(
        "lab/arm",
        {"pose": Field.state(2, names=("x", "<i>grip"), units=("m", "%")), "task": Field.text()},
        ActionSpec.unknown(1, names=("v",)),
        control_hz=5,
    )
    poses = np.array([[0.0, 1.0], [0.5, 1.0], [0.25, 1.0]])
    acted = Episode.from_arrays(
        {"pose": poses, "task": EVIL}, [[1], [2], [3]], "lab/arm", [0, 0, 2], [0, 0, 1]
    )
    frames = np.zeros((3, 4, 6, 3), np.uint8)
    frames[1], frames[2, :, :3] = 200, (255, 0, 0)
    with EpisodeStore.create(path, [arm]) as store:
        store.append([acted, Episode.from_arrays({"images.top": frames}, None, "lab/camera")])
        store.append([rich_episode(seed=k, length=9) for k in range(len(TEXTS))])
    return path


class Counts(ActingPolicy):
    """Predicts the number in the state and those after it."""

    n_obs_steps, horizon, n_action_steps, draws = 1, 4, 2, 1

    def __init__(self):
        fields = {"state": Field.state(1)}
        self.environments = (Interface("lab/count", fields, ActionSpec.unknown(2)),)

    def act(self, window, environment, noise, known=None, keep=None):
        first = window["state"][:, 0] + np.arange(self.horizon)  # (B, H)
        return np.stack([first, -first], axis=-1)


def write_counted(path: Path) -> Path:
    """An episode that `Counts` knows, and one of another environment."""
    number = np.arange(6)[:, None]
    acted = Episode.from_arrays({"state": 100 + number}, np.c_[number, number], "lab/count")
    other = Episode.from_arrays({"pose": number}, number, "lab/other", rewards=np.ones(6))
    EpisodeStore.write(path, [acted, other])
    return path


def write_marked(path):
    """Three episodes: a person took two steps of the first, none of the second; of the third
    nothing says it.
    """
    marks = [[False, True, True, False], [False] * 4, None]
    episodes = [
        replace(
            Episode.from_arrays({"state": np.zeros((4, 1))}, np.zeros((4, 1)), "lab/arm"),
            interventions=None if m is None else np.array(m),
        )
        for m in marks
    ]
    EpisodeStore.write(path, episodes)
    return path
