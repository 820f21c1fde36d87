"""Metrics beside success that some environments have and others lack."""

from pathlib import Path

import numpy as np
import pytest

from alltrades import cli
from alltrades.envs.rollouts.evaluation import SUCCESS, EnvironmentResult, Evaluation, measures
from alltrades.envs.rollouts.evaluation_files import write_evaluation
from alltrades.pipeline.comparison import compared
from alltrades.report.tables import plain_text

N = 30


def result(name: str, **metrics: tuple[float, ...]) -> EnvironmentResult:
    flat = (0.0,) * N
    return EnvironmentResult(name, tuple(range(N)), (1,) * N, flat, flat, 10, "", metrics)


@pytest.fixture
def rows() -> dict[str, Evaluation]:
    """`x` measures a ratio, in which `a` is better by 1; `y` does not."""
    ratio = np.linspace(20, 24, N)
    return {
        name: Evaluation(name, (result("x", psnr=tuple(ratio + more)), result("y")))
        for name, more in (("a", 1.0), ("b", 0.0))
    }


def test_a_metric_of_one_environment_is_shown_and_compared_beside_one_that_lacks_it(rows):
    assert measures(rows.values()) == {SUCCESS: ["x", "y"], "psnr": ["x"]}
    comparison = compared(rows, [("a", "b")])
    (pair,) = [p for p in comparison["pairs"] if p["metric"] == "psnr"]
    assert pair["mean"] == pytest.approx(1.0) and pair["verdict"] == "BETTER"
    table = plain_text(rows, comparison).split("psnr, 95 % interval")[1].split("\n\n")[0]
    assert "23.00" in table and "22.00" in table
    assert "\nx" in table and "\ny" not in table


def test_compare_takes_the_environments_that_have_the_metric(rows, tmp_path: Path, capsys):
    for name, evaluation in rows.items():
        write_evaluation(tmp_path / f"{name}.json", evaluation)
    files = [str(tmp_path / f"{name}.json") for name in rows]
    assert cli.main(["compare", *files, "--metric", "psnr"]) == 0
    assert "+1.000" in capsys.readouterr().out
    assert cli.main(["compare", *files, "--metric", "ssim"]) == 2
    assert "no metric 'ssim' was measured in 'x'" in capsys.readouterr().err
