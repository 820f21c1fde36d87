"""Whole runs, of few steps: environments with and without success beside one another, and a run
that is blind to success.
"""

import json
from functools import partial
from pathlib import Path

import pytest

from alltrades.data.store import EpisodeStore
from alltrades.envs import registry
from alltrades.pipeline.runner import RunResult, run
from alltrades.report.tables import plain_text
from alltrades.settings.load import load_settings
from alltrades.settings.run import RunSettings
from tests.alltrades.test_returns import SILENT, TELLING, Wage, still

STEPS = ("specialist.train.steps", "labeled_only.steps", "distill.train.steps")
FEW = {
    **dict.fromkeys((*STEPS, "distill.rounds.train.steps"), 2),
    "tracking.wandb": "disabled",
    "rollout.workers": 0,
    "rollout.timeout": 0,
    "rollout.lanes": 4,
    "demos.episodes": 4,
    "distill.rollouts": 6,
    "distill.weights.kind": "success*ratio",
    "distill.rounds.count": 1,
    "distill.rounds.episodes": 4,
    "distill.rounds.selection": 3,
    "evaluation.episodes": 6,
    "evaluation.rows": "[labeled_only, generalist]",
    "evaluation.compare": "[[generalist, labeled_only]]",
}


def short(folder: Path, **changes: object) -> RunResult:
    words = [f"--{k.replace('__', '.')}={v}" for k, v in (FEW | changes).items()]
    settings, _ = load_settings(
        RunSettings, defaults_file="quickstart_paper", small=True, overrides=words
    )
    return run(settings, folder)


def facts_of(folder: Path, name: str) -> dict:
    return json.loads((folder / "policies" / name / "policy.json").read_text())["training"]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    for name, says in ((SILENT, False), (TELLING, True)):
        make = partial(Wage, says)
        registry.register(name, make, replace=True, expert=still, max_steps=5)
    folder = tmp_path_factory.mktemp("mixed")
    return folder, short(folder, environments=f"[{SILENT}, {TELLING}]")


def test_a_mixed_run_says_of_every_figure_what_it_is(mixed):
    folder, result = mixed
    rows = {r.environment: r for r in result.evaluations["generalist"].rows}
    assert rows[SILENT].successes is None and rows[TELLING].successes is not None
    success, returns, differences, _ = plain_text(
        result.evaluations, result.comparison, result.advice
    ).split("\n\n")
    assert success.startswith("success, 95 %") and SILENT not in success
    assert returns.startswith("return, 95 %") and TELLING not in returns
    assert "generalist - labeled_only " in differences and "labeled_only, return" in differences
    record = json.loads((folder / "evaluation" / "generalist.json").read_text())
    found = {r["environment"]: r["successes"] for r in record["rows"]}
    assert found[SILENT] is None and record["return"]["of"] == [SILENT]
    page = result.report.read_text()
    assert "Nothing says success here" in page and "1 environment without success" in page


def test_filters_rounds_and_rollouts_of_a_mixed_run_go_by_what_there_is(mixed):
    folder, _ = mixed
    rollouts = json.loads((folder / "rollouts.json").read_text())["scratch"]
    assert rollouts[SILENT]["successes"] is None and rollouts[TELLING]["successes"] is not None
    first, second = json.loads((folder / "rounds" / "generalist.json").read_text())["rounds"]
    assert first["selection"] is not None and first["return"] > 0 and "gain" in second
    assert second["tries"][0][SILENT]["kept"] == 2  # the upper half of four
    assert facts_of(folder, "generalist")["success_uses"] == ["ends episodes", "filters", "chooses"]
    assert facts_of(folder, "labeled_only")["success_uses"] == []


def test_a_run_without_any_success_never_says_that_it_was_used(tmp_path):
    make = partial(Wage, False)
    registry.register(SILENT, make, replace=True, expert=still, max_steps=5)
    result = short(tmp_path, environments=f"[{SILENT}]")
    row = result.evaluations["generalist"]
    assert not row.used_success_signal and row.result() is None
    assert facts_of(tmp_path, "generalist")["used_success_signal"] is False
    assert "trained with the simulator's success signal" not in plain_text(
        result.evaluations, result.comparison
    )
    assert [p["metric"] for p in result.comparison["pairs"]] == ["return"]


def test_a_blind_run_uses_success_for_nothing_and_still_reports_it(tmp_path):
    words = {"simulator.success": "never", "distill.rounds.teacher": "best"}
    result = short(tmp_path, environments="[planar/reach]", **words)
    assert all(e.rows[0].successes is not None for e in result.evaluations.values())
    for name in ("generalist_round0", "generalist_round1", "generalist"):
        assert facts_of(tmp_path, name)["used_success_signal"] is False
    for store in ("demos", "rollouts_scratch", "generalist_round1"):
        columns = EpisodeStore.open(tmp_path / "stores" / f"{store}.zarr")
        episodes = list(columns.episodes())
        assert {e.success for e in episodes} == {None} and {len(e) for e in episodes} == {80}
    assert len(episodes) == 4  # one try of every start
    kept = json.loads((tmp_path / "rounds" / "generalist.json").read_text())["rounds"]
    assert [r["kept"] for r in kept] == [False, True]  # the last, whatever it does


def test_in_a_blind_run_experts_may_stop_where_the_task_is_done(tmp_path):
    words = {"simulator.success": "never", "demos.ends": "success"}
    result = short(tmp_path, environments="[planar/reach]", **words)
    demos, rollouts = (
        list(EpisodeStore.open(tmp_path / "stores" / f"{name}.zarr").episodes())
        for name in ("demos", "rollouts_scratch")
    )
    assert all(len(e) < 80 and e.success for e in demos)
    assert {len(e) for e in rollouts} == {80} and {e.success for e in rollouts} == {None}
    assert not any(e.used_success_signal for e in result.evaluations.values())
    assert facts_of(tmp_path, "generalist")["used_success_signal"] is False
