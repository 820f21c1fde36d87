"""Runs of a study beside one another, in processes of their own."""

import json
import os

import pytest

from alltrades import cli
from alltrades.errors import UserError
from alltrades.settings.compute import ComputeSettings
from alltrades.studies.at_once import StudyRun, carry_out
from alltrades.system.processes import alive
from tests.alltrades.study_runs import after_waiting, began, breaks, ends, fails, waits
from tests.alltrades.test_sweep import written

HERE = ComputeSettings()


def runs_of(folder, *calls, after=()):
    after = dict(after)
    return [
        StudyRun(f"run {i}", folder / str(i), call, (folder / str(i), *args), after.get(i))
        for i, (call, *args) in enumerate(calls)
    ]


def test_results_come_in_order_from_processes_that_know_who_has_ended(tmp_path, capfd):
    found = carry_out(runs_of(tmp_path, (began,), (began,), (began,), after={1: 0}), 2, HERE)
    assert [f[0] for f in found] == ["0", "1", "2"]
    assert os.getpid() not in {f[2] for f in found} and len({f[2] for f in found}) == 3
    assert found[0][3] == [] and "0" in found[1][3]
    lines = capfd.readouterr().err.splitlines()
    assert [f"run 1: {word}" in lines for word in ("one line", "another")] == [True, True]
    assert sorted(x for x in lines if " of 3: " in x) == [
        f"run {i + 1} of 3: run {i}" for i in range(3)
    ]


def test_one_at_a_time_runs_here(tmp_path):
    found = carry_out(runs_of(tmp_path, (began,), (began,)), 1, HERE)
    assert [f[2] for f in found] == [os.getpid()] * 2
    assert [f[3] for f in found] == [[], ["0"]]


@pytest.mark.parametrize(
    ("call", "kind", "said"),
    [
        (fails, UserError, "run 0: found 1; expected 2; set it to 2"),
        (breaks, RuntimeError, "ZeroDivisionError"),
        (ends, UserError, r"run 0: its process ended by itself \(exit code 7\)"),
    ],
)
def test_the_first_that_fails_is_named(tmp_path, call, kind, said):
    with pytest.raises(kind, match=said):
        carry_out(runs_of(tmp_path, (call,)), 2, HERE)


def test_one_that_fails_ends_the_others(tmp_path):
    with pytest.raises(UserError, match="run 1: found 1"):
        carry_out(runs_of(tmp_path, (waits,), (after_waiting, tmp_path / "0")), 2, HERE)
    assert not alive(int((tmp_path / "0" / "pid").read_text()))


def swept(tmp_path, name, *words):
    """Results and networks of the sweep, run with some words."""
    out = tmp_path / name
    assert cli.main(["run", str(written(tmp_path)), "--out", str(out), *words]) == 0
    weights = {
        str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("model.safetensors"))
    }
    assert len(weights) == 2 * 2 * (1 + 2)  # cells, seeds; a specialist and two networks
    for seed in (0, 1):
        first, second = (
            out / f"distill.train.steps={n}/seed-{seed}/policies/labeled_only/model.safetensors"
            for n in (10, 20)
        )
        # taken over from the first run of the seed, not trained again
        assert first.stat().st_mtime_ns == second.stat().st_mtime_ns
    return json.loads((out / "results.json").read_text()), weights


@pytest.fixture(scope="module")
def one_by_one(tmp_path_factory):
    return swept(tmp_path_factory.mktemp("after"), "after", "--trainings", "1")


@pytest.mark.slow
def test_runs_of_a_sweep_beside_one_another_are_those_of_one_after_another(tmp_path, one_by_one):
    assert swept(tmp_path, "beside", "--at_once", "3", "--trainings", "1") == one_by_one


@pytest.mark.slow
def test_on_a_cluster_too_each_is_a_driver_of_it(tmp_path, one_by_one, capfd):
    pytest.importorskip("ray", reason="the extra ray is not installed")
    found = swept(tmp_path, "ray", "--at_once", "2", "--compute", "ray", "--trainings", "1")
    said = capfd.readouterr().err
    assert said.count("one was started") == 1  # by the study: its runs have joined it
    assert found == one_by_one
