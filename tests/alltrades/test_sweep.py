"""Sweeps: a grid of settings and seeds of runs that share what does not differ between them."""

import json

import pytest

from alltrades import cli
from alltrades.envs.rollouts.evaluation import EnvironmentResult, Evaluation
from alltrades.errors import UserError
from alltrades.settings.load import load_settings
from alltrades.studies.sweep import Settings, cell_name, cell_settings
from alltrades.studies.sweep_tables import Cell, summarise

SWEEP = "{distill.train.steps: [10, 20]}"
RECIPE = f"""
extends: quickstart_paper
study: sweep
name: trial
environments: [planar/reach]
optional_environments: []
sweep: {SWEEP}
seeds: [0, 1]
generalists: {{}}
labeled_only: {{steps: 10}}
specialist: {{width: 16, train: {{steps: 10}}}}
policy: {{width: 32}}
distill: {{rollouts: 2, label_steps: 2, train: {{steps: 10}}}}
demos: {{episodes: 3}}
rollout: {{workers: 0, timeout: 0, lanes: 8}}
evaluation: {{episodes: 4, rows: [labeled_only, generalist]}}
tracking: {{wandb: disabled}}
report: false
"""


@pytest.fixture
def recipe(tmp_path):
    return written(tmp_path)


def written(folder, sweep=SWEEP):
    """The recipe with another sweep (on the command line one adds to the recipe's)."""
    path = folder / "trial.yaml"
    path.write_text(RECIPE.replace(SWEEP, sweep))
    return path


def test_a_sweep_is_one_command_whose_runs_share_what_is_equal(recipe, tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.main(["run", str(recipe), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "distill.train.steps = 20: labeled_only" in said
    cells = [out / f"distill.train.steps={n}" for n in (10, 20)]
    results = json.loads((out / "results.json").read_text())
    rows = results["tables"]["success"]["rows"]
    assert {(r[0], r[1]) for r in rows} == {
        (n, row) for n in (10, 20) for row in ("labeled_only", "generalist")
    }
    for seed in (0, 1):
        first, second = (c / f"seed-{seed}" for c in cells)
        for name, shared in (("labeled_only", True), ("generalist", False)):
            a, b = (p / "policies" / name / "model.safetensors" for p in (first, second))
            assert (
                a.stat().st_mtime_ns == b.stat().st_mtime_ns
            ) is shared  # a copy, not a second training
            assert (a.read_bytes() == b.read_bytes()) is shared
        evaluations = [
            json.loads((p / "evaluation" / "labeled_only.json").read_text())
            for p in (first, second)
        ]
        assert evaluations[0] == evaluations[1]
    seeds = [
        c.joinpath("seed-0", "policies", "labeled_only", "model.safetensors").read_bytes()
        for c in cells
    ]
    assert (
        seeds[0]
        != (cells[0] / "seed-1" / "policies" / "labeled_only" / "model.safetensors").read_bytes()
    )
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.safetensors")}
    assert cli.main(["run", str(recipe), "--out", str(out)]) == 0
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*.safetensors")} == before


def test_values_reach_the_run_and_wrong_ones_are_refused_before_it_begins(recipe, tmp_path, capsys):
    settings, origins = load_settings(Settings, defaults_file=recipe)
    own = cell_settings(settings, {"demos.episodes": 7, "distill.weights.kind": "none"}, 3, origins)
    assert (own.seed, own.demos.episodes, own.distill.weights.kind) == (3, 7, "none")
    assert own.labeled_only == settings.labeled_only and own.distill.train == settings.distill.train
    with pytest.raises(UserError, match="demos.episodes"):
        cell_settings(settings, {"demos.episodes": "many"}, 0, origins)
    for sweep, words in (
        ("{demos.episode: [1]}", "demos.episode"),
        ("{demos.episodes: []}", "at least one"),
        ("{}", "at least one"),
        ("{demos.episodes: [5, 7, 5]}", "5 twice; expected every value once"),
        ("{seed: [1, 2]}", "seed varies as `seeds`"),
    ):
        assert cli.main(["run", str(recipe), "--out", str(tmp_path / "no"), "--sweep", sweep]) == 2
        assert words in (said := capsys.readouterr().err) and said.count("\n") == 1
    twice = ["--seeds", "[0, 1, 0]", "--sweep", "{demos.episodes: [5]}"]
    assert cli.main(["run", str(recipe), "--out", str(tmp_path / "no"), *twice]) == 2
    assert (
        "seeds (command line): 0 twice" in (said := capsys.readouterr().err)
        and said.count("\n") == 1
    )
    assert not (tmp_path / "no").exists() or not list((tmp_path / "no").rglob("*.safetensors"))


def test_specialists_and_their_rollouts_are_shared_by_generalists_of_any_width(tmp_path):
    out, recipe = tmp_path / "out", written(tmp_path, "{policy.width: [16, 24]}")
    assert (
        cli.main(
            [
                "run",
                str(recipe),
                "--out",
                str(out),
                "--seeds",
                "[0]",
                "--evaluation.rows",
                "[specialists, generalist]",
            ]
        )
        == 0
    )
    first, second = (out / f"policy.width={n}" / "seed-0" for n in (16, 24))
    for path, shared in (
        ("policies/specialists/scratch/planar__reach/model.safetensors", True),
        ("evaluation/specialists.json", True),
        ("stores/rollouts_scratch.zarr/commit.json", True),
        ("weights/generalist/planar__reach/weights.safetensors", True),
        ("policies/generalist/model.safetensors", False),
    ):
        assert (
            (first / path).stat().st_mtime_ns == (second / path).stat().st_mtime_ns
        ) is shared, path


def test_no_rollouts_means_that_specialists_label_the_demonstrations_states(tmp_path):
    recipe = written(tmp_path, "{distill.rollouts: [0]}")
    assert cli.main(["run", str(recipe), "--out", str(tmp_path / "out"), "--seeds", "[0]"]) == 0
    run = tmp_path / "out" / "distill.rollouts=0" / "seed-0"
    facts = json.loads((run / "weights" / "generalist.json").read_text())
    assert all(
        w["demo_mass"] == 1.0 and "no rollouts: demonstrations only" in w["warnings"]
        for w in facts.values()
    )
    assert all(
        "no teacher was rolled out" in a["line"]
        for a in json.loads((run / "advice.json").read_text()).values()
    )


def test_every_metric_has_its_table_and_lists_of_environments_a_table_of_those_in_common(tmp_path):
    settings, _ = load_settings(
        Settings, defaults_file=written(tmp_path, "{environments: [[a], [a, b]]}")
    )

    def evaluation(name, environments, shift):
        return Evaluation(
            name,
            tuple(
                EnvironmentResult(
                    e,
                    (1, 2),
                    (5, -1),
                    (0.0, 0.0),
                    (0.0, 0.0),
                    10,
                    "",
                    {"psnr": (20.0 + shift, 22.0 + shift + 10 * (e == "b"))},
                )
                for e in environments
            ),
        )

    cells = []
    for environments in (["a"], ["a", "b"]):
        cells.append(Cell({"environments": environments}))
        for seed, shift in ((0, 0.0), (1, 1.0)):
            cells[-1].seeds[seed] = {
                "labeled_only": evaluation("labeled_only", environments, 0.0),
                "generalist": evaluation("generalist", environments, shift),
            }
    result = summarise(settings, cells)
    tables = {t.name: t for t in result.tables}
    assert {
        "success",
        "success_common",
        "differences",
        "psnr",
        "psnr_common",
        "differences_psnr",
    } <= set(tables)
    assert "weights" not in tables
    means = {(r[0], r[1]): r[2] for r in tables["psnr"].rows}
    assert means == {
        (1, "labeled_only"): 21.0,
        (1, "generalist"): 21.5,
        (2, "labeled_only"): 23.5,
        (2, "generalist"): 24.0,
    }
    assert {r[2] for r in tables["psnr_common"].rows if r[1] == "generalist"} == {21.5}
    assert [r[2] for r in tables["differences_psnr"].rows] == [0.5, 0.5]
    assert [r[2] for r in tables["differences_psnr_common"].rows] == [0.5, 0.5]
    assert {tuple(r[1:]) for r in tables["differences_common"].rows} == {
        tuple(tables["differences"].rows[0][1:])
    }
    assert len(result.figures) == 4


def test_equal_outcomes_at_every_start_leave_an_interval_with_a_width():
    result = Evaluation(
        "generalist",
        (EnvironmentResult("a", tuple(range(50)), (5,) * 50, (0.0,) * 50, (0.0,) * 50, 10, ""),),
    )
    cell = Cell({"demos.episodes": 5}, {0: {"generalist": result}, 1: {"generalist": result}})
    mean, (low, high), _ = cell.mean("generalist", ["a"])
    assert (mean, high) == (1.0, 1.0) and 0.9 < low < 0.96  # 50 of 50: Wilson 0.93


def test_a_table_says_where_weights_were_estimated_and_what_they_balanced(tmp_path):
    settings, _ = load_settings(
        Settings, defaults_file=written(tmp_path, "{demos.episodes: [2, 10]}")
    )
    result = Evaluation(
        "generalist",
        tuple(EnvironmentResult(e, (1, 2), (5, -1), (0.0, 0.0), (0.0, 0.0), 10, "") for e in "ab"),
    )
    off = {
        "active": False,
        "auc": None,
        "auc_interval": None,
        "tau": 0.0,
        "ess": None,
        "moment_balance": None,
    }
    on = {
        "active": True,
        "auc": 0.7,
        "auc_interval": [0.6, 0.8],
        "tau": 1.0,
        "ess": 0.5,
        "moment_balance": [0.4, 0.1],
    }
    guarded = on | {
        "active": False,
        "auc": 0.5,
        "auc_interval": [0.4, 0.6],
        "tau": 0.0,
        "moment_balance": None,
    }
    cells = []
    for n, found in ((2, (off, off)), (10, (on, guarded))):
        folder = tmp_path / f"run-{n}"
        for name, facts in zip("ab", found):
            (folder / "weights" / "generalist" / name).mkdir(parents=True)
            (folder / "weights" / "generalist" / name / "weights.json").write_text(
                json.dumps(facts)
            )
        cells.append(Cell({"demos.episodes": n}))
        cells[-1].add(0, {"generalist": result}, folder)
    tables = {t.name: t for t in summarise(settings, cells).tables}
    (row,) = tables["weights"].rows
    assert row == [10, "generalist", 2, 2, 1, 1, pytest.approx(0.6), 0.5, 0.5, 0.4, 0.1]
    assert [r[-1] for r in tables["success"].rows] == ["0", "1"] and tables["success"].columns[
        -1
    ] == "weights active in"


def test_cells_have_distinct_folders_however_long_their_values():
    long = [
        {"environments": [f"planar/reach-{i}" for i in range(30)] + [tail]} for tail in ("a", "b")
    ]
    names = [
        cell_name(v)
        for v in (
            *long,
            {"demos.episodes": 5},
            {"demos.episodes": 5, "seed": 1},
            {},
            {"demos.episodes_of.planar/push": 5},  # an environment's name within that of a setting
        )
    ]
    assert (
        len(set(names)) == 6
        and all(len(n) < 80 and "/" not in n for n in names)
        and names[2] == "demos.episodes=5"
    )
