"""Words and figures of studies for a reader who sees the executed notebook alone."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file
from study_setup import markdown_table, outcome, setup, statement

from alltrades.settings.load import dump_yaml, load_settings
from alltrades.studies import study_of
from alltrades.studies.claims import CLAIMS


@pytest.fixture
def folder(tmp_path):
    def written(name, *overrides, small=False):
        recipe = f"experiments/{name}"
        settings, origins = load_settings(
            study_of(recipe).Settings, defaults_file=recipe, small=small, overrides=overrides
        )
        (tmp_path / "settings.yaml").write_text(dump_yaml(settings, origins))
        return tmp_path

    return written


@pytest.mark.parametrize("name", CLAIMS)
def test_every_recipe_states_what_is_expected_and_what_was_cut(name):
    said = statement(name).lower()
    asked = (
        ["?"] if name == "environments" else ["expected", "refuted where"]
    )  # it asks which of two things happens
    assert [word for word in (*asked, "cut:") if word not in said] == []
    assert "#" not in said and "\n" not in said and "extends:" not in said


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("name", sorted(set(CLAIMS) - {"exact", "estimators"}))
def test_setup_names_environments_networks_data_training_and_measurement(name, small, folder):
    said = setup(folder(name, small=small))
    for start in ("Environments: ", "Networks (", "Data: ", "Training steps: ", "Measured: rows "):
        assert sum(line.startswith(start) for line in said) == 1
    settings, _ = load_settings(
        study_of(f"experiments/{name}").Settings, defaults_file=f"experiments/{name}", small=small
    )
    assert f"{settings.evaluation.episodes} episodes per environment and row" in said[-1]
    assert f"training seeds {', '.join(map(str, settings.seeds))}." in said[-1]
    varied = [line for line in said if "(varied)" in line or " / " in line]
    assert bool(varied) is bool(getattr(settings, "sweep", {}))


def test_setup_says_what_varies_how_rows_differ_and_how_large_networks_are(folder):
    place = folder("demos", "--seeds", "[4]")
    for name, width in (
        ("demos.episodes=5/seed-4/policies/generalist", 3),
        ("a/policies/specialists/scratch/b", 2),
    ):
        (place / name).mkdir(parents=True)
        save_file(
            {"w": np.zeros((width, 1000)), "b": np.zeros(width)}, place / name / "model.safetensors"
        )
    said = setup(place)
    assert "2 / 5 / 10 / 25 / 50 (varied) demonstrations per environment" in said[2]
    assert "(a generalist holds 3,003 numbers, a specialist holds 2,002 numbers)" in said[1]
    (plus,) = [line for line in said if line.startswith("Row labeled_only_plus")]
    assert (
        "teachers [labeled_only]" in plus
        and "rollouts 240" in plus
        and "weights.kind success" in plus
        and "lr" not in plus
    )
    assert "training seeds 4." in said[-1]


def test_studies_of_their_own_say_their_sizes_and_a_folder_without_settings_nothing(
    folder, tmp_path
):
    assert (
        "repetitions 50" in setup(folder("exact"))[0]
        and "generalist [64, 128, 256, 512]" in setup(tmp_path)[0]
    )
    (tmp_path / "settings.yaml").unlink()
    assert setup(tmp_path) == []


def test_outcome_counts_verdicts_and_gives_each_with_its_numbers():
    flat = {"value": 0.0, "interval": [-0.1, 0.1]}
    results = {
        "tables": {"requirements": {"columns": ["elasticity"], "rows": []}},
        "elasticities": {"score n d_G": flat, "score n d_H": flat},
    }
    count, *claims = outcome("exact", results)
    assert count == "Of 4 claims: 1 held, 1 refuted, 2 undecided."
    assert (
        claims[0].startswith("**held**: ")
        and "+0.000 [-0.100, +0.100]" in claims[0]
        and len(claims) == 4
    )


def test_a_markdown_table_keeps_its_columns():
    rows = [{"a": 0.12345, "b": "x|y", "c": None}, {"a": 1, "b": "z"}]
    lines = markdown_table(rows, ["a", "b", "c"]).splitlines()
    assert lines == ["| a | b | c |", "| --- | --- | --- |", "| 0.123 | x\\|y |  |", "| 1 | z |  |"]


def test_figures_name_their_axes_and_series():
    matplotlib = pytest.importorskip(
        "matplotlib", reason='needs: pip install "alltrades[notebook]"'
    )
    matplotlib.use("Agg")
    import study_curves as curves

    rows = [
        {"n": n, "width": w, "row": r, "success": 0.5, "low": 0.4, "high": 0.6}
        for n in (0, 5, 50)
        for w in (64, 256)
        for r in ("specialists", "generalist")
    ]
    settings = load_settings(
        study_of("experiments/exact").Settings, defaults_file="experiments/exact", small=True
    )[0]
    s = json.loads(settings.model_dump_json())
    columns = ["method", "d_H", "d_G", "n", "N", "excess", "deviation", "repetitions"]
    excess = [
        [m, 4, g, n, None if m == "labeled" else N, 0.1, 0.01, 6]
        for m in ("labeled", "score", "noise")
        for g in s["generalist"]
        for n in s["demos"]
        for N in {8 * g, *s["rollouts"]}
    ]
    points = [
        ["linear", m, 0.5, 0.4, 0.6, 0.5, 0.4, 0.6]
        for m in ("generalist", "labeled_only")
        for _ in range(3)
    ]
    front = {
        "columns": [
            "front",
            "method",
            *(f"{k} {e}" for e in "ab" for k in ("success", "low", "high")),
        ],
        "rows": points,
    }
    differences = [
        {"a - b": "x - y", "d": 10, "demos": n, "difference": 0.1, "low": 0.0, "high": 0.3}
        for n in (5, 25)
    ]
    figures = {
        "sweep": curves.sweep_curves(rows, "n", by=("width",)),
        "front": curves.front_panels({"tables": {"front": front}}),
        "exact": curves.exact_curves(
            {"settings": s, "tables": {"excess": {"columns": columns, "rows": excess}}}
        ),
        "estimators": curves.estimator_differences(differences),
    }
    for name, figure in figures.items():
        assert all(axis.get_xlabel() and axis.get_ylabel() for axis in figure.axes), name
        (legend,) = figure.legends
        shown = {text.get_text() for text in legend.get_texts()}
        assert (
            shown
            == {
                "sweep": {"specialists", "generalist"},
                "front": {"generalist", "labeled_only"},
                "exact": {"d_G = 64", "d_G = 128", "d_G = 256", "target"},
                "estimators": {"mean, 95 % interval"},
            }[name]
        )
    assert [axis.get_title() for axis in figures["sweep"].axes] == ["width = 64", "width = 256"]
    by_n = figures["exact"].axes[1].containers[0].lines[0].get_xdata()
    assert list(by_n) == s["demos"]  # one point for each, where rollouts are enough
