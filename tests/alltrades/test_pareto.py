"""Pareto fronts of a run: what is reused, trained, queried and continued; and what is said of known
points.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from alltrades import cli
from alltrades.envs.rollouts.evaluation import EnvironmentResult, Evaluation
from alltrades.errors import UserError
from alltrades.pipeline import generalist
from alltrades.pipeline.runner import run
from alltrades.policies.model.loading import load_policy
from alltrades.settings.load import load_settings
from alltrades.settings.run import RunSettings
from alltrades.studies.pareto_tables import summarise
from alltrades.studies.pareto_training import ParetoSettings
from alltrades.system.files import slug

QUICK = [
    "--tracking.wandb",
    "disabled",
    "--no-report",
    "--rollout.workers",
    "0",
    "--rollout.timeout",
    "0",
    "--rollout.lanes",
    "8",
    "--environments",
    "[planar-conflict]",
    "--policy.embedding",
    "0",
    "--generalists",
    "{}",
    "--distill.weights.kind",
    "none",
    "--evaluation.rows",
    "[labeled_only, generalist]",
    "--optional_environments",
    "[]",
    "--labeled_only.steps",
    "20",
    "--specialist.train.steps",
    "20",
    "--distill.train.steps",
    "20",
    "--distill.label_steps",
    "2",
    "--distill.rollouts",
    "2",
    "--evaluation.episodes",
    "3",
    "--policy.width",
    "64",
    "--specialist.width",
    "32",
]


def settings(*more: str) -> RunSettings:
    return load_settings(
        RunSettings, defaults_file="quickstart_paper", small=True, overrides=[*QUICK, *more]
    )[0]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    run(settings(), folder)
    return folder


@pytest.fixture(scope="module")
def front(finished):
    command = [
        "pareto",
        str(finished),
        "--divisions",
        "2",
        "--fronts",
        "linear",
        "tchebycheff",
        "conditioned",
    ]
    assert cli.main(command) == 0
    return command, json.loads((finished / "pareto" / "front.json").read_text())


def digest(folder: Path) -> str:
    return json.loads((folder / "policy.json").read_text())["digest"]


def test_front_has_a_point_for_every_preference_and_method(front):
    rows = front[1]["tables"]["front"]["rows"]
    assert len(rows) == 3 * 2 * 3 and {(r[0], r[1]) for r in rows} == {
        (f, m)
        for f in ("linear", "tchebycheff", "conditioned")
        for m in ("generalist", "labeled_only")
    }
    assert [r[2:4] for r in rows[:3]] == [[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]]
    assert front[1]["reference"]["success"] == [0.0, 0.0] and len(front[1]["differences"]) == 6


def test_uniform_preference_of_the_linear_front_is_the_runs_own_generalist(finished, front):
    """Demonstrations, specialists, rollouts, weights and seeds are those of the run: so are the
    bits.
    """
    place = finished / "policies" / "pareto" / "linear"
    for method in ("generalist", "labeled_only"):
        assert digest(place / "0.5_0.5" / method) == digest(finished / "policies" / method)
        assert len({digest(place / at / method) for at in ("0_1", "0.5_0.5", "1_0")}) == 3


def test_conditioned_front_is_one_network_asked_for_every_preference(finished, front):
    place = finished / "policies" / "pareto" / "conditioned"
    assert {p.name for p in place.iterdir()} == {"generalist", "labeled_only"}
    assert load_policy(place / "generalist").chosen_preference() == {
        "planar/reach": 0.5,
        "planar/reach-mirror": 0.5,
    }
    used = {
        json.loads(p.read_text())["rows"][0]["policy"]
        for p in (finished / "evaluation" / "pareto" / "conditioned").glob("*/generalist.json")
    }
    assert len(used) == 3  # a digest for every preference


def test_front_again_trains_nothing_and_the_run_is_still_done(finished, front, capsys):
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*.safetensors")}
    written = (finished / "pareto" / "front.json").read_bytes()
    assert cli.main(front[0]) == 0
    run(settings(), finished)
    assert {p: p.stat().st_mtime_ns for p in finished.rglob("*.safetensors")} == before
    assert (finished / "pareto" / "front.json").read_bytes() == written


def test_preferences_that_two_fronts_share_are_trained_once(finished, front):
    place = finished / "policies" / "pareto" / "linear"
    before = {p: p.stat().st_mtime_ns for p in place.rglob("*.safetensors")}
    assert cli.main(["pareto", str(finished), "--preferences", "1,1", "1,3"]) == 0
    after = {p: p.stat().st_mtime_ns for p in place.rglob("*.safetensors")}
    assert {p: after[p] for p in before} == before and len(after) == len(before) + 2
    assert cli.main(front[0]) == 0


def test_front_page_and_table_are_written(finished, front):
    pytest.importorskip("plotly", reason='needs: pip install "alltrades[report]"')
    page = (finished / "pareto" / "front.html").read_text()
    assert (
        "Pareto front" in page and "Hypervolume" in page and "://" not in page.split("<script")[0]
    )
    assert (finished / "pareto" / "front.csv").read_text().count("\n") == 1 + 18


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--fronts", "quadratic"], "fronts"),
        (["--divisions", "0"], "divisions"),
        (["--divisions", "200"], "at most 64"),
        (["--preferences", "1,2,3"], "expected 2 numbers"),
        (["--row", "nobody"], "expected one of generalist"),
    ],
)
def test_mistakes_give_one_line(finished, more, expected, capsys):
    assert cli.main(["pareto", str(finished), *more]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and expected in error


def test_unfinished_runs_and_other_folders_are_refused(tmp_path, capsys):
    assert cli.main(["pareto", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err
    run(settings("--evaluation.rows", "[labeled_only]"), tmp_path)
    assert cli.main(["pareto", str(tmp_path)]) == 2
    assert "no generalist 'generalist'" in capsys.readouterr().err


# ---- settings ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (
            ["--policy.preference_input", "true", "--distill.objective.kind", "tchebycheff"],
            "preference_input",
        ),
        (
            ["--policy.preference_input", "true", "--distill.preference", "{planar/reach: 1}"],
            "preference_input",
        ),
        (["--evaluation.preference", "{planar/reach: 1}"], "policies take none"),
        (
            ["--distill.objective.kind", "worst", "--distill.train.observation_noise", "0.1"],
            "observation_noise",
        ),
        (["--distill.objective.mu", "0"], "distill.objective.mu"),
        (["--distill.objective.kind", "chebyshev"], "distill.objective.kind"),
    ],
)
def test_combinations_without_meaning_are_refused(more, expected):
    with pytest.raises(UserError, match=expected):
        settings(*more)


def test_run_takes_objectives_and_preferences_from_its_settings(tmp_path):
    """A generalist for the worst environment, and one that takes preferences, evaluated at the one
    that was chosen.
    """
    rows = ["--evaluation.rows", "[generalist]"]
    run(settings("--distill.objective.kind", "worst", *rows), tmp_path / "worst")
    assert (tmp_path / "worst" / "policies" / "generalist" / "policy.json").exists()
    takes = [
        "--policy.preference_input",
        "true",
        "--evaluation.preference",
        "{planar/reach: 3, planar/reach-mirror: 1}",
    ]
    result = run(settings(*takes, *rows), tmp_path / "takes")
    policy = load_policy(tmp_path / "takes" / "policies" / "generalist")
    chosen = policy.set_preference({"planar/reach": 3, "planar/reach-mirror": 1}).digest()
    assert result.evaluations["generalist"].rows[0].policy == chosen
    assert (
        cli.main(
            [
                "pareto",
                str(tmp_path / "takes"),
                "--fronts",
                "conditioned",
                "--divisions",
                "1",
                "--labeled-only",
            ]
        )
        == 0
    )
    assert not (
        tmp_path / "takes" / "policies" / "pareto"
    ).exists()  # the run's own network was asked


# ---- what is said of known points ----------------------------------------------------------------
def evaluation(rates, n=200):
    rows = tuple(
        EnvironmentResult(
            name,
            tuple(range(n)),
            tuple(5 if i < rate * n else -1 for i in range(n)),
            tuple(float(rate) for _ in range(n)),
            (0.0,) * n,
            10,
            "x",
        )
        for name, rate in zip("ab", rates)
    )
    return Evaluation("x", rows)


def test_known_fronts_are_compared_rightly():
    preferences = np.array([[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]])
    measured = {
        ("linear", "generalist"): [evaluation(r) for r in ((0.1, 0.9), (0.5, 0.6), (0.8, 0.1))],
        ("linear", "labeled_only"): [evaluation(r) for r in ((0.1, 0.7), (0.6, 0.4), (0.7, 0.1))],
    }
    result = summarise(["a", "b"], preferences, [measured], [0], {})
    gaps = [r for r in result.tables[1].rows if r[2] == "success"]
    assert [round(r[4], 6) for r in gaps] == [0.2, 0.05, 0.1]
    assert [r[8] for r in gaps] == ["yes", "", "yes"]  # at the middle one b gains and a loses
    assert gaps[0][7] == "BETTER"
    volume = next(d for d in result.facts["differences"] if d["measure"] == "success")
    # staircases above (0, 0): .1 * .9 + .4 * .6 + .3 * .1 and .1 * .7 + .5 * .4 + .1 * .1
    assert (
        volume["difference"] == pytest.approx(0.36 - 0.28)
        and volume["interval"][0] < 0.08 < volume["interval"][1]
    )
    assert (
        "above labeled_only at 3 of 3" in result.findings[0]
        and "in every environment at 2" in result.findings[0]
    )
    # .1 .7 and .7 .1 lie below the generalist's points at the same preference, .6 .4 below none
    assert (
        "dominates 2 of the 3 points of labeled_only, whose points dominate 0 of its own"
        in result.findings[0]
    )


def test_training_seeds_that_disagree_are_not_called_better():
    preferences = np.array([[0.5, 0.5]])
    seeds = [
        {
            ("linear", "generalist"): [evaluation((g, g))],
            ("linear", "labeled_only"): [evaluation((0.5, 0.5))],
        }
        for g in (0.95, 0.4)
    ]
    result = summarise(["a", "b"], preferences, seeds, [0, 1], {})
    line = next(r for r in result.tables[1].rows if r[2] == "success")
    assert line[4] == pytest.approx(0.175) and line[5] > 0 and line[7] == "SEEDS DISAGREE"


def test_equal_outcomes_at_every_start_leave_intervals_with_a_width():
    point = [evaluation((1.0, 0.0), n=50)]
    seeds = [{("linear", "generalist"): point, ("linear", "labeled_only"): point}] * 2
    points, gaps = summarise(["a", "b"], np.array([[0.5, 0.5]]), seeds, [0, 1], {}).tables[:2]
    found = dict(zip(points.columns, points.rows[0]))
    assert (
        0.9 < found["low a"] < 0.96
        and found["high a"] == 1.0
        and found["low b"] == 0.0
        and 0.04 < found["high b"] < 0.1
    )
    gap = next(r for r in gaps.rows if r[2] == "success")
    assert (
        gap[4] == 0 and -0.1 < gap[5] < -0.02 and 0.02 < gap[6] < 0.1
    )  # 50 equal pairs do not show that all are


def test_preferences_are_normalised():
    assert ParetoSettings(preferences=((1, 3),)).vectors(["a", "b"]).tolist() == [[0.25, 0.75]]
    with pytest.raises(UserError, match="at least two"):
        ParetoSettings().vectors(["a"])


def test_preference_given_twice_is_trained_once(finished, monkeypatch):
    trained: list[Path] = []
    fit = generalist.fit

    def counted(*args):
        trained.append(args[5].work)
        return fit(*args)

    monkeypatch.setattr(generalist, "fit", counted)
    assert (
        cli.main(["pareto", str(finished), "--preferences", "1,9", "2,18", "--labeled-only"]) == 0
    )
    assert trained == [finished / "work" / slug("distill/pareto/linear/0.1_0.9/generalist")]
