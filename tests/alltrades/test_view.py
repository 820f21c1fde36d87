"""`alltrades data view`: what is on the page, and what it says is not."""

import base64
import html
import io
import json
import re
import shutil

import numpy as np
import pytest
import zarr
from PIL import Image

from alltrades import cli
from alltrades.data.actions import ActionSpec
from alltrades.data.episode import Episode
from alltrades.data.fields import Field
from alltrades.data.interface import Interface
from alltrades.data.layout import Layout
from alltrades.data.store import EpisodeStore
from alltrades.errors import UserError
from alltrades.policies.model.normalizer import Normalizer
from alltrades.policies.model.policy import DiffusionPolicy
from alltrades.policies.settings import PolicySettings
from alltrades.report.view import curves, page
from alltrades.report.view.choosing import named, spread
from alltrades.report.view.curves import line
from alltrades.report.view.episodes import Recordings
from alltrades.report.view.page import EPISODE_BYTES, PAGE_BYTES, write_page
from alltrades.report.view.pictures import colours, strip
from alltrades.report.view.predictions import Predictor
from tests.alltrades.test_report import CHROMIUM, dump_dom
from tests.alltrades.viewing import (
    EVIL,
    Counts,
    Page,
    view,
    write_counted,
    write_marked,
    write_mixed,
)
from tests.data.stores import TEXTS


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    return write_mixed(tmp_path_factory.mktemp("view") / "mixed.zarr")


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    return write_counted(tmp_path_factory.mktemp("view") / "counted.zarr")


def picture(camera: dict) -> np.ndarray:
    kind, data = re.fullmatch(r"data:image/(png|jpeg);base64,(.*)", camera["url"]).groups()
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def line_of(episode: dict, title: str, name: str) -> list:
    (plot,) = [p for p in episode["plots"] if p["title"] == title]
    (found,) = [one["y"] for one in plot["lines"] if one["name"] == name]
    return found


def test_the_page_has_every_number_of_a_short_episode_with_names_and_units(mixed):
    page = view(mixed)
    arm = page.episodes[0]
    assert line_of(arm, "pose", "x (m)") == [0.0, 0.5, 0.25]
    assert line_of(arm, "pose", "<i>grip (%)") == [1.0, 1.0, 1.0]
    assert line_of(arm, "action", "v") == [1.0, 2.0, 3.0]
    assert line_of(arm, "reward", "reward") == [0.0, 0.0, 2.0]
    assert line_of(arm, "success", "success") == [0.0, 0.0, 1.0]
    assert (arm["every"], arm["rate"], arm["length"], arm["note"]) == (1, 5, 3, "")


def test_the_list_says_what_is_known_of_each_episode(mixed):
    first, second, *rest = view(mixed).rows
    assert first == {
        "episode": "0",
        "environment": "lab/arm",
        "length": "3",
        "success": "yes",
        "return": "2",
        "source": "demo",
        "instruction": EVIL,
    }
    assert (second["success"], second["instruction"]) == ("", "")
    shown = [t if len(t) <= 160 else t[:160] + " ..." for t in TEXTS]
    shown = [t.replace("\ud800", "?").replace("\r\n", "\n") for t in shown]
    assert [row["instruction"].replace("\ufffd", "\0") for row in rest] == shown


def test_the_steps_that_a_person_took_are_a_line_and_their_number_a_column(mixed, tmp_path):
    page = view(write_marked(tmp_path / "marked.zarr"))
    assert line_of(page.episodes[0], "intervention", "intervention") == [0, 1, 1, 0]
    assert line_of(page.episodes[1], "intervention", "intervention") == [0, 0, 0, 0]
    assert "intervention" not in [p["title"] for p in page.episodes[2]["plots"]]
    assert [row["interventions"] for row in page.rows] == ["2", "0", ""]
    assert "interventions" not in view(mixed).rows[0]  # where nothing marks any


def test_text_of_a_store_is_text_and_never_part_of_the_page(mixed):
    page = view(mixed)
    assert page.episodes[0]["texts"] == {"task": EVIL}
    assert page.episodes[2 + TEXTS.index("\ud800 half of a pair")]["texts"]["instruction"] == (
        "\ud800 half of a pair"
    )
    assert "b" not in page.tags and "i" not in page.tags
    assert page.tags.count("script") == len(page.episodes) + 2


def test_an_episode_of_images_alone_has_pictures_and_no_plots(mixed):
    camera = view(mixed).episodes[1]
    assert camera["plots"] == []
    (top,) = camera["cameras"]
    assert (top["name"], top["steps"], top["what"]) == ("images.top", [0, 1, 2], "6 x 4 x 3 uint8")
    shown = picture(top)
    assert shown.shape == (4, 18, 3)
    assert (shown[:, :6] == 0).all() and (shown[:, 6:12] == 200).all()
    assert (shown[:, 12:15] == (255, 0, 0)).all()


def test_depth_and_pictures_of_floats_are_grey_from_least_to_greatest():
    depth = np.array([0, 500, 1500], np.uint16).reshape(1, 1, 3, 1)
    shown, note = colours(depth)
    assert shown[0, 0, :, 0].tolist() == [0, 255, 26] and note == "500 to 1500"  # near is bright
    heat = np.array([-1.0, 1.0, np.nan], np.float32).reshape(1, 1, 3, 1)
    shown, note = colours(heat)
    assert shown[0, 0, :, 1].tolist() == [0, 255, 0] and note == "-1 to 1"
    plain, note = colours(np.array([0.5], np.float32).reshape(1, 1, 1, 1))
    assert plain.ravel().tolist() == [128] * 3 and not note


def test_a_strip_of_pictures_keeps_to_its_bytes_and_its_steps():
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (32, 300, 400, 3), np.uint8)
    found = strip(frames, np.arange(32), 60_000)
    assert (found.width, found.height) == (160, 120)
    data = base64.b64decode(found.url.split(",")[1])
    assert len(data) <= 60_000 and 1 < len(found.steps) < 32
    assert Image.open(io.BytesIO(data)).size == (160 * len(found.steps), 120)
    assert found.steps.tolist() == list(range(0, 32, 32 // len(found.steps)))
    assert len(strip(frames, np.arange(32), 1).steps) == 1


def test_lines_of_long_episodes_keep_every_spike_and_gap():
    values = np.sin(np.arange(10_000) / 100)
    values[4321], values[777] = 50, -60
    values[9000:9100] = np.nan
    found = line(values, 40)
    assert len(found) == 500 and max(v for v in found if v is not None) == 50
    assert min(v for v in found if v is not None) == -60
    assert found.index(50) // 2 == 4321 // 40 and found.index(-60) // 2 == 777 // 40
    assert found[450:454] == [None] * 4 and None not in (found[449], found[454])


def test_digits_tell_values_apart_however_large_they_are():
    stamps = 1.7e9 + np.arange(5) / 10
    assert np.allclose(np.diff(line(stamps, 1)), 0.1, atol=1e-4)
    assert line(np.full(3, 1.25e-9), 1) == [1.25e-9] * 3
    assert line(np.array([1e300, -1e300]), 1) == [1e300, -1e300]
    assert line(np.array([np.inf, 1.0]), 1) == [None, 1.0]


def test_many_numbers_and_steps_stay_within_the_bytes_of_an_episode(tmp_path):
    rng = np.random.default_rng(0)
    wide = {f"f{k}": rng.normal(size=(3_000, 60)) for k in range(3)}
    EpisodeStore.write(tmp_path / "s", [Episode.from_arrays(wide, wide["f0"], "a")])
    page = view(tmp_path / "s")
    assert len(page.scripts["episode-0"]) < EPISODE_BYTES
    said = page.episodes[0]["note"]
    assert "48 of 60 numbers of action" in said and "48 of 60 numbers of f0" in said
    assert "0 of 60 numbers of f1" in said
    titles = [p["title"] for p in page.episodes[0]["plots"]]
    assert titles[:2] == ["action 0 to 11", "action 12 to 23"]
    assert page.episodes[0]["every"] * len(page.episodes[0]["plots"][0]["lines"][0]["y"]) >= 6_000


def test_pages_of_a_thousand_episodes_keep_to_their_bytes(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    room = PAGE_BYTES // 1000
    monkeypatch.setattr(page, "PAGE_BYTES", 2 * room)
    fields = {f"images.{k}": rng.integers(0, 256, (40, 90, 90, 3), np.uint8) for k in range(16)}
    fields |= {"state": rng.normal(size=(40, 1)), "much": rng.normal(size=(40, 60))}
    wide = rng.normal(size=(40, 2))
    episodes = [Episode.from_arrays(fields, wide, "lab/count", seed=k) for k in range(2)]
    store = EpisodeStore.write(tmp_path / "s", episodes)
    predictor = Predictor(store, {"lab/count": Counts()})
    write_page(Recordings(store), np.arange(2), tmp_path / "page.html", predictor)
    for text in Page((tmp_path / "page.html").read_text()).scripts.values():
        assert room / 2 < len(text) < 1.1 * room


def test_cameras_that_are_left_out_are_said(tmp_path):
    frames = np.zeros((2, 4, 4, 1), np.uint8)
    many = {f"images.{k}": frames for k in range(17)}
    EpisodeStore.write(tmp_path / "s", [Episode.from_arrays(many, None, "a")])
    (episode,) = view(tmp_path / "s").episodes.values()
    assert len(episode["cameras"]) == 16 and episode["note"] == "16 of 17 cameras"


def test_a_foreign_store_with_nan_is_shown_with_a_gap(tmp_path):
    group = zarr.open_group(str(tmp_path / "pick.zarr"), mode="w", zarr_format=2)
    keypoints = np.arange(24.0).reshape(6, 2, 2)
    keypoints[1, 0, 0] = np.nan
    for name, value in {
        "data/keypoints": keypoints,
        "data/action": np.ones((6, 1), np.float32),
        "data/success": np.array([0, 0, 1, 0, 0, 0], np.float32),
        "meta/episode_ends": np.array([3, 6]),
    }.items():
        group.create_array(name, shape=value.shape, dtype=value.dtype)[:] = value
    page = view(tmp_path / "pick.zarr")
    assert line_of(page.episodes[0], "keypoints", "0") == [0.0, None, 8.0]
    assert line_of(page.episodes[1], "keypoints", "3") == [15.0, 19.0, 23.0]
    assert line_of(page.episodes[0], "success", "success") == [0.0, 0.0, 1.0]


def test_of_many_episodes_some_of_each_environment_are_shown_and_all_are_listed(tmp_path, capsys):
    ones = {"state": np.ones((2, 1))}
    episodes = [Episode.from_arrays(ones, None, "a", seed=k) for k in range(250)]
    episodes[100:100] = [Episode.from_arrays(ones, None, "rare", seed=k) for k in range(3)]
    EpisodeStore.write(tmp_path / "s", episodes)
    page = view(tmp_path / "s")
    assert len(page.rows) == 253 and len(page.episodes) == 100
    assert {100, 101, 102} < set(page.episodes) and {0, 252} < set(page.episodes)
    assert "100 of 253 episodes" in capsys.readouterr().out
    assert set(view(tmp_path / "s", "--episodes", "5, 7-9").episodes) == {5, 7, 8, 9}
    assert len(view(tmp_path / "s", "--episodes", "all").episodes) == 253


def test_a_condition_chooses_what_is_shown(mixed, capsys):
    assert set(view(mixed, "--where", "success").episodes) == {0}
    assert set(view(mixed, "--where", "length == 3").episodes) == {0, 1}
    out = str(mixed.parent / "none.html")
    command = ["data", "view", str(mixed), "--html", out, "--where", "length > 99"]
    assert cli.main(command) == 2
    assert "holds of none of 10 episodes" in capsys.readouterr().err
    assert cli.main([*command, "--episodes", "1"]) == 2
    assert "either --episodes or --where" in capsys.readouterr().err


def test_spread_gives_the_share_of_small_environments_to_large_ones():
    names = np.array(["b"] * 2 + ["a"] * 50 + ["c"] * 50)
    found = spread(names, 22)
    assert [(names[found] == n).sum() for n in "abc"] == [10, 2, 10]
    assert spread(names[:2], 22).tolist() == [0, 1]
    assert len(spread(np.arange(30).astype(str), 20)) == 20


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "expected all, or numbers"),
        ("3-1", "'3-1'; expected all, or numbers"),
        ("-1", "expected all, or numbers"),
        ("1,x", "'x'; expected all, or numbers"),
        ("2-5", "no episode 5; expected 0 to 4"),
        ("9" * 18, "no episode 999"),
    ],
)
def test_episodes_that_cannot_be_named_are_refused(text, words):
    with pytest.raises(UserError, match=re.escape(words)):
        named(text, 5)


def test_more_episodes_than_a_page_takes_are_refused():
    with pytest.raises(UserError, match="1001 episodes; expected at most 1000"):
        named("all", 1001)


def test_nothing_to_make_and_nothing_to_look_at_are_said(mixed, tmp_path, capsys):
    assert cli.main(["data", "view", str(mixed)]) == 2
    assert "nothing to make; expected --html FILE (a page), --rrd FILE" in capsys.readouterr().err
    EpisodeStore.create(tmp_path / "empty").close()
    assert cli.main(["data", "view", str(tmp_path / "empty"), "--html", str(tmp_path / "x")]) == 2
    assert "no episodes; expected some to look at" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_damaged_picture_ends_the_page_before_it_is_there(mixed, tmp_path, capsys):
    broken = shutil.copytree(mixed, tmp_path / "broken.zarr")
    files = [p for p in broken.rglob("*") if p.is_file() and "images.top" in str(p)]
    chunk = max(files, key=lambda p: p.stat().st_size)
    chunk.write_bytes(b"\0" * chunk.stat().st_size)
    out = tmp_path / "page.html"
    assert cli.main(["data", "view", str(broken), "--html", str(out)]) == 2
    assert "images.top" in capsys.readouterr().err
    assert not out.exists() and not list(tmp_path.glob(".page*"))


def test_the_bounds_of_plots_are_those_that_the_documents_say():
    assert (curves.FIELD, curves.ALL, curves.PREDICTED, curves.POINTS[1]) == (48, 96, 8, 600)


# ---- policies ------------------------------------------------------------------------------------
def test_predicted_chunks_stand_beside_recorded_actions_where_they_begin(counted, tmp_path):
    store = EpisodeStore.open(counted)
    predictor = Predictor(store, {"lab/count": Counts()})
    write_page(Recordings(store), np.array([0, 1]), tmp_path / "page.html", predictor)
    acted, other = Page((tmp_path / "page.html").read_text()).episodes.values()
    assert acted["at"] == [0, 4] and other["at"] == []
    first, second = [p for p in acted["plots"] if p["title"].startswith("action")]
    assert (first["title"], first["lines"][0]["y"]) == ("action 0", [0, 1, 2, 3, 4, 5])
    assert first["chunks"] == [[100, 101, 102, 103], [104, 105]]
    assert second["chunks"] == [[-100, -101, -102, -103], [-104, -105]]
    assert all("chunks" not in p for p in other["plots"])


def test_long_episodes_have_chunks_all_along(tmp_path):
    states = np.arange(1000.0)[:, None]
    store = EpisodeStore.write(
        tmp_path / "s", [Episode.from_arrays({"state": states}, states.repeat(2, 1), "lab/count")]
    )
    chunks = Predictor(store, {"lab/count": Counts()}).along("lab/count", 0)
    assert chunks is not None and len(chunks.at) == 64
    assert (chunks.at[0], chunks.at[-1]) == (0, 996) and (chunks.at % 4 == 0).all()
    assert chunks.values[:, 0, 0].tolist() == chunks.at.tolist()


def test_a_policy_that_does_not_fit_the_store_is_refused_with_the_reason(counted, tmp_path, capsys):
    wrong = Interface("lab/count", {"state": Field.state(3)}, ActionSpec.unknown(2))
    policy = DiffusionPolicy(PolicySettings(), [wrong], Normalizer(Layout([wrong])))
    policy.normalizer.fitted.fill_(True)
    policy.save(tmp_path / "policy")
    command = ["data", "view", str(counted), "--html", str(tmp_path / "page.html")]
    assert cli.main([*command, "--policy", str(tmp_path / "policy")]) == 2
    said = capsys.readouterr().err
    assert "no predicted chunks of lab/count: 'state' is a state of 1 numbers" in said
    assert said.count("\n") == 1 and not (tmp_path / "page.html").exists()
    assert cli.main([*command, "--policy", str(tmp_path / "nothing")]) == 2
    assert "no policy here" in capsys.readouterr().err


# ---- in a browser --------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs a chromium on PATH: apt-get install chromium")
def test_a_browser_shows_the_episode_that_is_selected_and_sorts_the_list(mixed, tmp_path):
    view(mixed, "--episodes", "0-3")
    script = """<script>
      const rows = () => [...document.querySelectorAll("#list tbody tr")];
      const numbers = () => rows().map((row) => row.dataset.number);
      const seen = { first: document.getElementById("name").textContent, before: numbers() };
      document.querySelectorAll(".sort")[2].click();
      seen.short = numbers();
      document.querySelectorAll(".sort")[2].click();
      seen.long = numbers();
      document.querySelector('tr[data-number="1"] .pick').click();
      seen.picked = document.getElementById("name").textContent;
      seen.cameras = document.querySelectorAll(".picture").length;
      document.querySelector('tr[data-number="2"]').click();
      setTimeout(() => {
        seen.lines = document.querySelectorAll("#plot .scatterlayer .trace").length;
        seen.facts = document.getElementById("facts").textContent;
        document.body.dataset.seen = JSON.stringify(seen);
      }, 5000);
    </script></body>"""
    page = (mixed.parent / "page.html").read_text().replace("</body>", script)
    (tmp_path / "page.html").write_text(page)
    dom = dump_dom(tmp_path / "page.html", tmp_path / "profile")
    seen = json.loads(html.unescape(re.search(r'data-seen="([^"]*)"', dom)[1]))
    assert seen["first"] == "Episode 0 of lab/arm" and seen["picked"] == "Episode 1 of lab/camera"
    assert seen["before"] == [str(k) for k in range(10)]
    assert seen["short"][:2] == ["0", "1"] and seen["long"][-2:] == ["0", "1"]
    assert seen["cameras"] == 1 and seen["lines"] == 3 + 2 + 1
    assert "lift the plate" in seen["facts"] and "alert" not in seen["facts"]
