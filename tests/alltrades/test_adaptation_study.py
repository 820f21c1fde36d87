"""The leave-one-out study of adaptation: its tables, its claims, and what it refuses."""

import numpy as np
import pytest

from alltrades.cli import main
from alltrades.envs.rollouts.evaluation import EnvironmentResult, Evaluation
from alltrades.studies.adaptation_tables import Adapted, summarise
from alltrades.studies.claims import judge

N = 40
EPISODES = 10  # times so many starts


def result(environment, successes):
    n = N * EPISODES
    first = tuple(5 if i < successes * EPISODES else -1 for i in range(n))
    zeros = (0.0,) * n
    return EnvironmentResult(environment, tuple(range(n)), first, zeros, zeros, 50, "")


def row(name, **successes):
    return Evaluation(name, tuple(result(e, k) for e, k in successes.items()))


def adapted(left, count, seed, after=20, new=30, scratch=10):
    return Adapted(
        left,
        count,
        seed,
        {
            "before": row("before", a=20, b=30),
            "after": row("after", a=after, b=30),
            "after (new)": row("after", **{left: new}),
            "scratch": row("scratch", **{left: scratch}),
        },
    )


def differences(found):
    table = summarise("t", found).to_json()["tables"]["differences"]
    return [dict(zip(table["columns"], r)) for r in table["rows"]]


def test_differences_are_over_starts_and_seeds_by_left_out_environment_and_for_all():
    found = [adapted(left, 1, s, after=20 + 4 * s) for left in "xy" for s in (0, 1)]
    rows = {(r["left out"], r["environments"]): r for r in differences(found)}
    assert set(rows) == {(left, of) for left in ("x", "y", "all") for of in ("before", "new")}
    # in one of two environments, in one of two seeds, 4 of 40 starts more
    assert rows["all", "before"]["difference"] == pytest.approx(0.5 * 0.5 * 4 / N)
    assert rows["x", "new"]["difference"] == pytest.approx(20 / N)
    assert rows["all", "new"]["verdict"] == "BETTER"
    assert rows["all", "before"]["low"] < 0  # seeds differ more than starts do
    assert rows["all", "before"]["starts"] == 4 * N * EPISODES


def test_success_is_that_of_every_row_in_its_own_environments():
    table = summarise("t", [adapted("x", 2, 0)]).to_json()["tables"]["success"]
    rows = {r[2]: r for r in table["rows"]}
    assert rows["before"][3] == pytest.approx(25 / N) and rows["before"][6] == 2
    assert rows["after (new)"][3] == pytest.approx(30 / N) and rows["scratch"][6] == 1


@pytest.mark.parametrize(
    ("after", "new", "expected"),
    [
        (20, 30, ["held", "held"]),
        (5, 10, ["refuted", "refuted"]),
        (18, 14, ["undecided", "undecided"]),
    ],
)
def test_claims_are_judged_by_two_points_lost_and_ten_gained(after, new, expected):
    found = [adapted("x", 1, seed, after, new) for seed in (0, 1)]
    claims = judge("adapt", summarise("t", found).to_json())
    assert [claim.verdict for claim in claims] == expected


@pytest.mark.parametrize(
    ("leave_out", "said"),
    [
        ("[]", "leave_out = []; expected at least one environment"),
        ("[planar/lift]", "leave_out names 'planar/lift'; expected some of several environments"),
    ],
)
def test_what_cannot_be_left_out_is_said_before_anything_runs(tmp_path, capsys, leave_out, said):
    words = ["run", "experiments/adapt_planar", "--small", "--leave_out", leave_out]
    assert main([*words, "--out", str(tmp_path / "study")]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "study").exists()


def test_a_row_that_was_not_measured_has_no_difference():
    found = adapted("x", 1, 0)
    silent = {name: e for name, e in found.rows.items() if name != "scratch"}
    rows = differences([Adapted("x", 1, 0, silent)])
    assert [r["environments"] for r in rows] == ["before"]
    assert np.isfinite(rows[0]["low"])
