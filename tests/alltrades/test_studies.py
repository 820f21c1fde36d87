"""Studies: found by their recipes, run by one command, continued."""

import json

import pytest

from alltrades import cli
from alltrades.settings.load import load_settings, packaged_recipes
from alltrades.settings.run import RunSettings
from alltrades.studies import STUDIES, study_of
from alltrades.studies.files import write_study
from alltrades.studies.result import StudyResult, Table

FEW = """--labeled_only.steps 10 --specialist.train.steps 10 --distill.train.steps 10
--distill.rollouts 2 --policy.width 32 --specialist.width 16 --rollout.timeout 0""".split()


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("recipe", packaged_recipes())
def test_every_packaged_recipe_loads_in_both_forms(recipe, small):
    study = study_of(recipe)
    model = RunSettings if study is None else study.Settings
    settings, _ = load_settings(model, defaults_file=recipe, small=small)
    assert study is None or settings.study in STUDIES
    assert (study is not None) == (getattr(settings, "study", None) is not None)


def test_pareto_study_is_one_command_and_continues(tmp_path, capsys):
    command = [
        "run",
        "experiments/pareto",
        "--small",
        "--out",
        str(tmp_path),
        "--seeds",
        "[0, 1]",
        "--tracking.wandb",
        "disabled",
        "--rollout.workers",
        "0",
        "--pareto.fronts",
        "[linear]",
        "--pareto.divisions",
        "1",
        "--evaluation.episodes",
        "4",
        *FEW,
    ]
    assert cli.main(command) == 0
    assert "Hypervolume difference" in capsys.readouterr().out
    results = json.loads((tmp_path / "results.json").read_text())
    assert (
        results["training_seeds"] == [0, 1]
        and len(results["per_seed"]["linear, generalist"]["success"]) == 2
    )
    assert {r[1] for r in results["tables"]["front"]["rows"]} == {
        "generalist",
        "labeled_only",
        "labeled_only_holdout",
    }
    assert (tmp_path / "front.csv").exists() and (
        tmp_path / "seed-1" / "evaluation" / "pareto"
    ).is_dir()
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.safetensors")}
    assert cli.main(command) == 0
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.safetensors")} == before
    assert json.loads((tmp_path / "results.json").read_text()) == results


def test_results_are_written_as_json_and_csv_and_shown(tmp_path, capsys):
    table = Table("sizes", ("name", "value"), [["a, b", 0.123456789], ["c", None]], "Sizes")
    result = StudyResult(
        "Title", "What was done.", ["a found b"], [table, Table("raw", ("x",), [[1]], shown=False)]
    )
    written = write_study(result, tmp_path)
    assert (tmp_path / "sizes.csv").read_text() == 'name,value\n"a, b",0.123457\nc,\n'
    assert json.loads((tmp_path / "results.json").read_text())["tables"]["sizes"]["rows"] == [
        ["a, b", 0.123456789],
        ["c", None],
    ]
    assert all(p.exists() for p in written) and (tmp_path / "raw.csv").exists()
    result.show()
    out = capsys.readouterr().out
    assert "a, b  0.123" in out and "a found b" in out and "raw" not in out
