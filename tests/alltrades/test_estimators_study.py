"""The study of density-ratio estimators, and the process whose ratio it knows."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alltrades import cli
from alltrades.studies.estimators import Settings, repetition
from alltrades.studies.linear_gaussian import LinearGaussian
from alltrades.system.processes import alive


@pytest.mark.parametrize("dim, drift", [(6, 0.4), (20, 0.4), (10, 0.0)])
def test_known_ratio_moves_expectations_from_rollouts_to_demonstrations(dim, drift):
    rng = np.random.default_rng(dim)
    world = LinearGaussian(dim, drift, rng)
    demos, rollouts = world.demonstrations(4000, rng), world.rollouts(8000, rng)
    ratio = np.exp(world.log_ratio(rollouts))
    assert ratio.mean() == pytest.approx(1.0, abs=0.03)  # E_dh[d*/dh] = 1
    size = world.squared_distance()
    assert (demos**2).sum(1).mean() == pytest.approx(size, rel=0.03)
    assert (ratio * (rollouts**2).sum(1)).mean() == pytest.approx(size, rel=0.03)
    if drift:
        assert (rollouts**2).sum(1).mean() > 1.5 * size
        assert ratio.max() <= 1 / (1 - drift) + 1e-9
    else:
        np.testing.assert_allclose(ratio, 1.0)


@pytest.fixture(scope="module")
def found() -> list[list[dict[str, Any]]]:
    """Two repetitions with 100 rollouts, where the rows of a fold are no multiple of the neural
    classifier's batches.
    """
    settings = Settings(repetitions=2, demos=(5,), dimensions=(10,), drift=(0.4,), rollouts=100)
    return [repetition(settings, 5, 10, 0.4, i) for i in range(2)]


def test_true_ratio_beats_no_weights(found):
    error = {(r["estimator"], r["guard"], r["scored"]): r["error"] for r in found[1]}
    assert error["true ratio", "off", "rollouts"] < 0.5 * error["none", "off", "rollouts"]
    assert {r["guard"] for r in found[1] if r["estimator"] == "rulsif"} == {"off", "ess", "ess+auc"}


def test_a_repetition_depends_on_its_number_only():
    settings = Settings(repetitions=2, demos=(5,), dimensions=(6,), drift=(0.4,), rollouts=10)
    first, again, other = (repetition(settings, 5, 6, 0.4, i) for i in (1, 1, 0))
    assert first == again != other


def test_relative_ratio_beats_the_raw_one_and_no_estimator_is_beaten_in_sample_by_five(found):
    found = [
        r
        for repetition in found
        for r in repetition
        if (r["guard"], r["scored"]) == ("off", "mixture")
    ]
    error = {
        name: np.mean([r["error"] for r in found if r["estimator"] == name])
        for name in {r["estimator"] for r in found}
    }
    assert error["quadratic, relative"] < error["quadratic, raw"]
    assert (
        max(error[name] for name in ("quadratic, relative", "rulsif", "classifier-mlp"))
        < error["mlp in-sample, raw"]
    )


def test_the_study_is_one_command_and_continues(tmp_path):
    command = [
        "run",
        "experiments/estimators",
        "--small",
        "--out",
        str(tmp_path),
        "--workers",
        "1",
        "--drift",
        "[0.4]",
        "--demos",
        "[5]",
        "--rollouts",
        "10",
    ]
    assert cli.main(command) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    done = sorted((tmp_path / "repetitions").iterdir())
    done[0].unlink()
    stamps = [p.stat().st_mtime_ns for p in done[1:]]
    assert cli.main(command) == 0
    assert json.loads((tmp_path / "results.json").read_text()) == results and done[0].exists()
    assert [p.stat().st_mtime_ns for p in done[1:]] == stamps


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_workers_do_not_outlive_their_parent(how: signal.Signals) -> None:
    code = (
        "import time\nfrom alltrades.system.compute.processes import Processes\n"
        "from tests.alltrades.posted import process\n"
        "if __name__ == '__main__':\n    with Processes(2) as executor:\n"
        "        print(*set(executor.map(process, range(20))), flush=True)\n"
        "        time.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],  # workers import the module of `process`
    )
    assert parent.stdout is not None
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    assert workers and all(alive(pid) for pid in workers)
    parent.send_signal(how)
    parent.wait(20)
    end = time.monotonic() + 20
    while any(alive(pid) for pid in workers) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in workers)
