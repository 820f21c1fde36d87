"""The report page: what it says is what the run folder holds, it opens without a network, and
nothing missing is hidden.
"""

import html
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from alltrades.envs.rollouts.evaluation import Evaluation
from alltrades.envs.rollouts.statistics import wilson
from alltrades.errors import UserError
from alltrades.report import write_report
from tests.alltrades.fake_run import ENVIRONMENTS, ROWS, fake_run, write

pytest.importorskip("plotly", reason="needs: pip install alltrades[report]")
pytest.importorskip("jinja2", reason="needs: pip install alltrades[report]")

from alltrades.report import figures, text
from alltrades.report.page import page_content
from alltrades.report.run_files import read_run

CHROMIUM = next(
    (
        path
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (path := shutil.which(name))
    ),
    None,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return fake_run(tmp_path_factory.mktemp("runs") / "fake")


@pytest.fixture(scope="module")
def page(run) -> str:
    return own_part(write_report(run))


def own_part(path: Path) -> str:
    """The page without plotly's code."""
    return re.sub(r"<script>.*?</script>", "", path.read_text(), flags=re.S)


def visible(page: str) -> str:
    return html.unescape(
        re.sub(
            r"\s+",
            " ",
            re.sub(r"<[^>]+>", " ", re.sub(r"<(script|style).*?</\1>", "", page, flags=re.S)),
        )
    )


def test_every_rate_stands_with_its_count_and_wilson_interval(run, page):
    table = page[page.index('<table class="rates') : page.index("</table>")]
    lines = {
        m[1]: visible(m[2])
        for m in re.finditer(r'<tr><th scope="row">([^<]+?)</th>(.*?)</tr>', table, re.S)
    }
    for row in ROWS:
        for result in json.loads((run / "evaluation" / f"{row}.json").read_text())["rows"]:
            low, high = wilson(result["successes"], result["n"])
            cell = (
                rf"{result['successes'] / result['n']:.2f} \[{low:.2f}, "
                rf"{high:.2f}\]\s+{result['successes']} / {result['n']}"
            )
            assert re.search(cell, lines[result["environment"]]), (row, result["environment"])


def test_the_header_says_the_verdict_and_who_used_the_success_signal(run, page):
    said = visible(page)
    pairs = json.loads((run / "comparison.json").read_text())["pairs"]
    assert text.sentence(pairs) in said
    for pair in pairs:
        assert f"{pair['verdict']} {pair['a']} − {pair['b']} {text.signed(pair['mean'])}" in said
    mean, _ = Evaluation.from_json(
        json.loads((run / "evaluation" / "generalist.json").read_text())
    ).mean()
    assert f"generalist {mean:.3f}" in said
    assert "Trained with the simulator's success signal: generalist (filters) ." in said
    assert "Without it: specialists, labeled_only." in said


def test_advice_settings_versions_seeds_and_times_are_shown(run, page):
    said = visible(page)
    for facts in json.loads((run / "advice.json").read_text()).values():
        assert facts["line"] in said
    for part in (
        "rollouts: 40",
        "# quickstart.yaml",
        "torch 2.9.0",
        "training seed 3",
        "1000, 1001, 1002, ...",
        "specialists/scratch 2 min 05 s",
        "labeled_only 1 min 01 s",
        "cpus 2",
        "within 40 steps",
        "chose: width 64, 1,500 of 2,000 steps (held-out loss in shares of the lowest: width 64 "
        "1.020, as set 1.100)",
    ):
        assert part in said, part


def test_rounds_show_their_gain_and_what_was_tried(page):
    said = visible(page)
    k = len(ENVIRONMENTS)
    assert "Rounds of generalist" in said and "before 0.700" in said
    assert re.search(
        rf"round 1 0\.712 \+0\.012 \[.0\.010, \+0\.030\] . yes {12 * k} / {20 * k}, {3 * k} / "
        rf"{8 * k}",
        said,
    )


def test_environments_and_stages_stand_in_the_order_of_the_run(page):
    said = visible(page)
    for part in ("Success ", "Advice Where", "Pseudo-data Rollouts"):
        after = said[said.index(part) :]
        places = [after.index(name + " ") for name in ENVIRONMENTS]
        assert places == sorted(places), part
    stages = said[said.index("Stages ") :]
    assert (
        stages.index("demos ")
        < stages.index("labeled_only ")
        < stages.index("rollouts/scratch ")
        < stages.index("evaluate/")
    )


def test_without_the_success_signal_the_page_says_so(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    value = json.loads((folder / "evaluation" / "generalist.json").read_text())
    write(
        folder / "evaluation" / "generalist.json",
        value | {"used_success_signal": False, "success_uses": []},
    )
    said = visible(own_part(write_report(folder)))
    assert (
        "No row was trained with the simulator's success signal." in said
        and "Without it" not in said
    )


def test_a_curve_of_one_point_is_seen():
    ((_, figure),) = figures.loss_curves(
        {"labeled_only": [{"step": 60, "loss": 0.1}]}, ["labeled_only"]
    )
    assert "markers" in figure.traces[0]["mode"]


def test_the_page_asks_for_nothing_from_a_network(run):
    page = own_part(write_report(run))
    assert "default-src 'none'" in page  # the browser refuses what plotly's code might ask for
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert sources and all(s.startswith(("#", "data:")) for s in sources)
    assert "http://" not in page and "https://" not in page and "@import" not in page
    assert 'src="data:image/gif;base64,R0lGOD' in page


def test_equal_runs_give_equal_pages(run, tmp_path):
    assert (
        write_report(run, tmp_path / "a.html").read_bytes()
        == write_report(run, tmp_path / "b.html").read_bytes()
    )


@pytest.mark.parametrize(
    "kept, said",
    [
        (
            "manifest.json",
            (
                "Not measured yet",
                "No evaluation in this run folder",
                "No paired comparison",
                "No advice",
                "No loss was logged",
                "No weights",
                "No statistics of rollouts",
                "No paths and no videos",
                "No settings",
            ),
        ),
        ("evaluation", ("No paired comparison of generalist", "No finished stage", "No versions")),
        ("settings.yaml", ("Not measured yet", "No finished stage")),
    ],
)
def test_missing_parts_are_named(run, tmp_path, kept, said):
    (shutil.copytree if (run / kept).is_dir() else shutil.copy)(run / kept, tmp_path / kept)
    shown = visible(own_part(write_report(tmp_path)))
    for sentence in said:
        assert sentence in shown


def test_rows_on_different_starts_are_said_to_be_unpaired(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    value = json.loads((folder / "evaluation" / "specialists.json").read_text())
    value["rows"][2]["seeds"][0] += 10**6
    write(folder / "evaluation" / "specialists.json", value)
    assert f"not measured on the same starts in {ENVIRONMENTS[2]}:" in visible(
        own_part(write_report(folder))
    )


def test_a_row_without_an_environment_leaves_its_cell_empty(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    value = json.loads((folder / "evaluation" / "specialists.json").read_text())
    del value["rows"][1]
    write(folder / "evaluation" / "specialists.json", value)
    assert visible(own_part(write_report(folder))).count("not measured ") == 1


def test_names_cannot_break_the_page(tmp_path):
    evil = "x/</script><script>alert(1)</script>&"
    page = write_report(
        fake_run(tmp_path / "run", (evil, "planar/reach"), n=4, videos=False)
    ).read_text()
    assert "<script>alert" not in page and evil not in page


def test_a_video_is_matched_to_its_environment_however_its_file_is_named(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    (folder / "videos" / "metaworld__window-open-v3%3ahidden.mp4").write_bytes(b"x")
    (folder / "videos" / "planar").mkdir()
    (folder / "videos" / "planar" / "push.mp4").write_bytes(b"x")
    found = read_run(folder).videos
    assert found["planar/push"].name == "push.mp4" and "planar/reach" in found


@pytest.mark.parametrize(
    "name, content",
    [
        ("comparison.json", "{"),
        ("advice.json", "[]"),
        ("evaluation/generalist.json", "{}"),
        ("settings.yaml", "a: ["),
    ],
)
def test_an_unreadable_file_is_one_line_naming_it(run, tmp_path, name, content):
    folder = shutil.copytree(run, tmp_path / "run")
    (folder / name).write_text(content)
    with pytest.raises(UserError, match=Path(name).name) as error:
        write_report(folder)
    assert "\n" not in str(error.value)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        write_report(tmp_path)


@pytest.mark.parametrize("name", ["plotly.offline", "jinja2"])
def test_without_the_extra_the_error_says_what_to_install(run, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=re.escape('pip install "alltrades[report]"')):
        write_report(run)


# ---- figures -------------------------------------------------------------------------------------
def test_every_figure_is_valid_plotly(run):
    import plotly.graph_objects as go

    def themed(value):
        if isinstance(value, str):
            return "rgba(1,2,3,0.5)" if value.startswith("@") else value
        if isinstance(value, dict):
            return {k: themed(v) for k, v in value.items()}
        return [themed(v) for v in value] if isinstance(value, list) else value

    made = page_content(read_run(run))["figures"]
    assert len(made) >= 2 + 2 + 2 + len(ENVIRONMENTS)
    for figure in made.values():
        value = figure.to_json()
        go.Figure(
            themed(value["data"]), themed(value["layout"])
        )  # raises on what plotly does not know


def test_colours_of_the_figures_are_variables_of_the_style_sheet(run):
    css = (Path(figures.__file__).parent / "page.css").read_text()
    made = json.dumps([f.to_json() for f in page_content(read_run(run))["figures"].values()])
    used = set(re.findall(r'"@([a-z]+\d*)', made)) | {f"row{i}" for i in range(figures.ROW_COLORS)}
    assert {"ink", "grid", "row0", "row2"} <= used
    for name in used:
        assert len(re.findall(rf"--{name}: #", css)) == 2, name  # light and dark


def test_success_against_the_limit_counts_first_successes(run):
    evaluations = read_run(run).evaluations
    figure = figures.success_by_limit(evaluations)
    for trace in figure.traces:
        first = np.array([r.first_success for r in evaluations[trace["name"]].rows])
        for limit in (0, 25, 100):
            expected = np.mean((first > 0) & (first <= limit))
            assert trace["y"][trace["x"].index(limit)] == pytest.approx(expected, abs=1e-3)


def test_the_forest_puts_every_interval_where_it_is(run):
    pair = json.loads((run / "comparison.json").read_text())["pairs"][0]
    figure = figures.forest(pair)
    assert len(figure.traces) == 1 + len(ENVIRONMENTS)
    for trace, facts in zip(figure.traces, [pair, *pair["per_environment"].values()], strict=True):
        (x,) = trace["x"]
        assert [
            x - trace["error_x"]["arrayminus"][0],
            x + trace["error_x"]["array"][0],
        ] == pytest.approx(facts["interval"])
        low, high = figure.layout["xaxis"]["range"]
        assert low <= facts["interval"][0] <= facts["interval"][1] <= high


def test_long_curves_are_thinned_and_keep_their_last_point():
    metrics = {
        "distill/generalist": [{"step": i + 1, "loss": 1.0 + i} for i in range(5003)]
        + [{"step": 6000, "loss": None}]
    }
    ((_, figure),) = figures.loss_curves(metrics, ["generalist"])
    (trace,) = figure.traces
    assert (
        len(trace["x"]) <= figures.MOST_POINTS and trace["x"][-1] == 5003 and trace["y"][-1] == 5003
    )


# ---- in a browser --------------------------------------------------------------------------------
def dump_dom(page: Path, profile: Path, *flags: str) -> str:
    command = [
        str(CHROMIUM),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-dev-shm-usage",
        f"--user-data-dir={profile}",
        "--virtual-time-budget=20000",
        "--enable-logging=stderr",
        *flags,
        "--dump-dom",
        page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    assert not console, console  # script errors, and whatever the content security policy refused
    return done.stdout


@pytest.mark.skipif(CHROMIUM is None, reason="needs a chromium on PATH: apt-get install chromium")
def test_every_plot_is_drawn_in_a_browser_without_a_script_error(run, tmp_path):
    dom = dump_dom(write_report(run, tmp_path / "report.html"), tmp_path / "profile")
    places = re.findall(r'<div class="(plot[^"]*)" id="(figure-\d+)"', dom)
    assert len(places) == len(page_content(read_run(run))["figures"])
    assert all("drawn" in kind and "failed" not in kind for kind, _ in places)
    assert dom.count('class="main-svg"') >= len(places)
    for name in (
        "success",
        "differences",
        "advice",
        "losses",
        "weights",
        "pseudo-data",
        "episodes",
        "settings",
        "provenance",
    ):
        assert f'<section id="{name}">' in dom
    assert dom.count("<table") >= 6


@pytest.mark.skipif(CHROMIUM is None, reason="needs a chromium on PATH: apt-get install chromium")
def test_the_page_fits_a_telephone_and_a_desk(run, tmp_path):
    write_report(run, tmp_path / "report.html")
    frames = "".join(
        f'<iframe src="report.html" style="width:{width}px;height:900px;border:0"></iframe>'
        for width in (390, 1280)
    )
    (tmp_path / "frames.html").write_text(
        frames
        + """<script>
        setTimeout(() => {
          for (const frame of document.querySelectorAll("iframe")) {
            const root = frame.contentDocument.documentElement;
            frame.dataset.widths = root.scrollWidth + " " + root.clientWidth;
          }
        }, 10000);
    </script>"""
    )
    dom = dump_dom(tmp_path / "frames.html", tmp_path / "profile", "--allow-file-access-from-files")
    found = [(int(a), int(b)) for a, b in re.findall(r'data-widths="(\d+) (\d+)"', dom)]
    assert len(found) == 2
    for width, (wide, room) in zip((390, 1280), found):
        assert width - 20 <= room <= width and wide == room


def test_metrics_beside_success_have_a_table_with_bars_inside_their_track(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    for shift, row in enumerate(ROWS):
        value = json.loads((folder / "evaluation" / f"{row}.json").read_text())
        for k, result in enumerate(value["rows"]):
            result["metrics"] = {
                "psnr": [20.0 + shift + 0.1 * k + 0.02 * i - 0.01 for i in range(result["n"])]
            }
        write(folder / "evaluation" / f"{row}.json", value)
    table = own_part(write_report(folder)).split("<h3>psnr</h3>")[1].split("</table>")[0]
    for shift in range(len(ROWS)):
        for k in range(len(ENVIRONMENTS)):
            assert f"<strong>{20.0 + shift + 0.1 * k + 0.48:.2f}</strong>" in table
    places = [float(x) for x in re.findall(r"(?:left|width):([-\d.]+)%", table)]
    assert (
        len(places) == 3 * len(ROWS) * (len(ENVIRONMENTS) + 1)
        and min(places) >= 0
        and max(places) <= 100
    )
