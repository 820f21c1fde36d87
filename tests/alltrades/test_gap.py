"""What a generalist keeps of its teachers, and how it is shown."""

import numpy as np
import pytest

from alltrades.envs.rollouts.evaluation import EnvironmentResult, Evaluation
from alltrades.pipeline.gap import gap
from alltrades.report import text
from alltrades.report.page import write_report
from alltrades.report.run_files import read_run
from alltrades.report.tables import plain_text
from tests.alltrades.fake_run import fake_run


def row(name, **successes):
    """A row with the first so many of 20 starts solved in each environment; None: says nothing."""
    results = []
    for environment, count in successes.items():
        first = None if count is None else tuple(3 if i < count else -1 for i in range(20))
        results.append(
            EnvironmentResult(environment, tuple(range(20)), first, (0.0,) * 20, (0.0,) * 20, 9, "")
        )
    return Evaluation(name, tuple(results))


def counts(**successes):
    return {
        name: {"n": 40, "successes": count, "return": 0.0, "return_interval": [0.0, 0.0]}
        for name, count in successes.items()
    }


ROLLOUTS = {"scratch": counts(a=30, b=10), "joint_init": counts(a=20, b=20)}
ROWS = {
    "specialists": row("specialists", a=16, b=20),
    "specialists_joint": row("specialists_joint", a=20, b=10),
    "generalist": row("generalist", a=12, b=8),
}


def test_it_is_beside_the_teacher_whose_rollouts_were_best_not_whose_evaluation_is():
    found = gap(ROWS, ["scratch", "joint_init"], ROLLOUTS)
    a, b = (found["environments"][name] for name in "ab")
    assert (a["teacher"], b["teacher"]) == ("scratch", "joint_init")
    assert (a["success"], a["teacher_success"], a["mean"]) == (0.6, 0.8, pytest.approx(-0.2))
    assert (b["success"], b["teacher_success"], b["mean"]) == (0.4, 0.5, pytest.approx(-0.1))
    assert found["mean"] == pytest.approx(0.5) and found["teachers_mean"] == pytest.approx(0.65)
    assert found["kept"] == pytest.approx(0.5 / 0.65)
    low, high = found["interval"]
    # the delta method for independent starts that are solved by both or by the teacher alone
    both, only = np.array([0.6, 0.4]), np.array([0.2, 0.1])
    spread = [only_k * (1 - only_k) / 20 for only_k in only]
    error = np.sqrt(sum(spread) / 4) / 0.65
    assert low < 0.5 / 0.65 < high <= 1.05
    assert 0.5 < (high - low) / (2 * 1.96 * error) < 2 and both.sum() == pytest.approx(1.0)


def test_teachers_that_were_not_evaluated_do_not_take_part():
    rows = {name: ROWS[name] for name in ("specialists", "generalist")}
    found = gap(rows, ["scratch", "joint_init", "labeled_only"], ROLLOUTS)
    assert {f["teacher"] for f in found["environments"].values()} == {"scratch"}


@pytest.mark.parametrize(
    "rows",
    [
        {"generalist": ROWS["generalist"]},
        {"specialists": ROWS["specialists"]},
        {"specialists": row("specialists", a=None), "generalist": row("generalist", a=None)},
    ],
)
def test_there_is_none_without_both_or_without_success(rows):
    assert gap(rows, ["scratch", "joint_init"], ROLLOUTS) is None


def test_of_teachers_that_never_succeed_nothing_is_kept():
    rows = {"specialists": row("specialists", a=0), "generalist": row("generalist", a=0)}
    found = gap(rows, ["scratch"], ROLLOUTS)
    assert found["kept"] is None and "none of them ever succeeds" in text.kept(found)


def test_terminal_and_report_say_it(tmp_path):
    folder = fake_run(tmp_path / "run", videos=False)
    run = read_run(folder)
    line = text.kept(run.comparison["teachers"])
    assert line.startswith("generalist 0.") and "(scratch): it keeps 1." in line
    assert line in plain_text(run.evaluations, run.comparison)
    page = write_report(folder).read_text()
    assert line in page and "The generalist and its teachers" in page


def test_a_share_without_an_interval_is_no_failure_of_all_teachers():
    """Some samples of so few starts have no success of a teacher."""
    rows = {"specialists": row("specialists", a=1), "generalist": row("generalist", a=2)}
    found = gap(rows, ["scratch"], ROLLOUTS)
    assert found["kept"] == pytest.approx(2) and found["interval"] is None
    assert text.kept(found).endswith("it keeps 2.00 (too few successes for an interval) of it")
