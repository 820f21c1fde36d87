"""Rounds: who is tried again, who teaches, what is kept, and that a cut round ends with the same
bits.
"""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from alltrades.data.store import EpisodeStore
from alltrades.envs import registry
from alltrades.envs.rollouts.evaluation import EnvironmentResult, Evaluation
from alltrades.pipeline import generalist
from alltrades.pipeline.demonstrations import Demonstrations
from alltrades.pipeline.folder import RunFolder
from alltrades.pipeline.generalist import Sources
from alltrades.pipeline.rounds import run_rounds
from alltrades.pipeline.runner import run
from alltrades.pipeline.visits import best_teachers, visit
from alltrades.policies.learning.distillation import RECORDED
from alltrades.policies.model.loading import load_policy
from alltrades.settings.distill import DistillSettings, RoundSettings
from alltrades.settings.load import load_settings
from alltrades.settings.rollouts import RolloutSettings
from alltrades.settings.rows import Row
from alltrades.settings.run import RunSettings
from alltrades.system.reporting import Report
from tests.alltrades.contexts import context_of

SMALL = [
    "--tracking.wandb",
    "disabled",
    "--no-report",
    "--rollout.workers",
    "0",
    "--rollout.timeout",
    "0",
    "--rollout.lanes",
    "8",
    "--evaluation.rows",
    "[labeled_only, generalist_round0, generalist]",
]
ROUNDS = RoundSettings(count=1, episodes=6, tries=3, explore=(0.1, 0.3), selection=4)
TWO = RolloutSettings(lanes=4, workers=0, timeout=0)


def settings(*more: str) -> RunSettings:
    return load_settings(
        RunSettings, defaults_file="quickstart_paper", small=True, overrides=[*SMALL, *more]
    )[0]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    rounds = [
        "--distill.rounds.count",
        "2",
        "--distill.rounds.episodes",
        "4",
        "--distill.rounds.tries",
        "2",
        "--distill.rounds.selection",
        "3",
        "--distill.rounds.train.steps",
        "20",
    ]
    return folder, run(settings(*rounds), folder)


@pytest.fixture(scope="module")
def policy(finished):
    return load_policy(finished[0] / "policies" / "labeled_only")


SPECS = [registry.get("planar/reach"), registry.get("planar/push")]


def test_a_run_with_rounds_keeps_the_round_with_the_highest_selection_success(finished):
    folder, result = finished
    report = json.loads((folder / "rounds" / "generalist.json").read_text())["rounds"]
    assert 2 <= len(report) <= 3
    means = [r["selection"] for r in report]
    best = int(np.argmax(means))  # of equals the first: a round that does not help is not kept
    assert [r["round"] for r in report if r["kept"]] == [best]
    facts = [
        json.loads((folder / "policies" / name / "policy.json").read_text())
        for name in ("generalist", f"generalist_round{best}")
    ]
    assert facts[0]["digest"] == facts[1]["digest"]
    uses = [f["training"]["success_uses"] for f in facts]
    assert uses[0] == [*(u for u in uses[1] if u != "chooses"), "chooses"]  # a round was chosen
    assert {"generalist_round0", "generalist"} <= set(result.evaluations)


def test_selection_starts_are_neither_evaluation_starts_nor_visited(finished):
    folder, _ = finished
    selection = {
        x
        for r in json.loads((folder / "selection" / "generalist_round0.json").read_text())["rows"]
        for x in r["seeds"]
    }
    evaluation = {
        x
        for r in json.loads((folder / "evaluation" / "generalist.json").read_text())["rows"]
        for x in r["seeds"]
    }
    visited = {
        int(x)
        for x in EpisodeStore.open(folder / "stores" / "generalist_round1.zarr").columns()["seed"]
    }
    assert (
        len(selection) == 6 and not selection & (evaluation | visited) and not evaluation & visited
    )


def test_only_failed_starts_are_tried_again_and_only_their_successes_are_kept(policy, tmp_path):
    visit(context_of(SPECS, TWO), policy, ROUNDS, 3, "round", tmp_path / "a.zarr", Report())
    store = EpisodeStore.open(tmp_path / "a.zarr")
    tries, columns = store.provenance["tries"], store.columns()
    assert {name: c["n"] for name, c in tries[0].items()} == {"planar/reach": 6, "planar/push": 6}
    for before, after in zip(tries, tries[1:]):
        for name in before:
            assert after.get(name, {"n": 0})["n"] == before[name]["n"] - before[name]["successes"]
    later = sum(c["successes"] for t in tries[1:] for c in t.values())
    assert len(store) == 12 + later and columns["success"][12:].all()
    solved = [
        (e, s)
        for e, s, ok in zip(columns["environment"], columns["seed"], columns["success"])
        if ok
    ]
    assert len(set(solved)) == len(solved)


def test_a_visit_that_was_cut_ends_with_the_same_store(policy, tmp_path):
    here = context_of(SPECS, TWO)
    visit(here, policy, ROUNDS, 3, "round", tmp_path / "whole.zarr", Report())
    reached = {"calls": 0}

    class Cut(Exception):
        pass

    def cut(done: int, total: int) -> None:
        reached["calls"] += 1
        if reached["calls"] == 15:  # in the second try
            raise Cut

    with pytest.raises(Cut):
        visit(here, policy, ROUNDS, 3, "round", tmp_path / "cut.zarr", Report(cut))
    assert len(EpisodeStore.open(tmp_path / "cut.zarr")) == 12
    visit(here, policy, ROUNDS, 3, "round", tmp_path / "cut.zarr", Report())
    whole, again = (EpisodeStore.open(tmp_path / f"{n}.zarr") for n in ("whole", "cut"))
    assert (
        whole.digest() == again.digest() and whole.provenance["tries"] == again.provenance["tries"]
    )


def test_the_teacher_has_the_highest_lower_end_not_the_highest_rate():
    statistics = {
        "self": {"a": {"n": 60, "successes": 50}, "b": {"n": 60, "successes": 20}},
        "scratch": {"a": {"n": 4, "successes": 4}, "b": {"n": 60, "successes": 40}},
        "joint_init": {"a": {"n": 60, "successes": 50}, "b": {"n": 60, "successes": 39}},
    }
    assert best_teachers(statistics) == {"a": "self", "b": "scratch"}


@pytest.mark.parametrize("targets", ["noise", "score"])
def test_better_teachers_label_the_generalists_visits(tmp_path, monkeypatch, targets):
    counted, trained, fit = [], [], generalist.fit

    def best(statistics):
        counted.append(statistics)
        return {"planar/reach": "scratch", "planar/push": "self"}

    monkeypatch.setattr("alltrades.pipeline.rounds.best_teachers", best)
    monkeypatch.setattr(generalist, "fit", lambda *args: trained.append(fit(*args)) or trained[-1])
    rounds = [
        "--distill.rounds.count",
        "1",
        "--distill.rounds.episodes",
        "3",
        "--distill.rounds.teacher",
        "best",
        "--distill.rounds.selection",
        "2",
        "--distill.rounds.train.steps",
        "10",
        "--distill.train.steps",
        "2",
    ]
    run(
        settings(
            *rounds, "--distill.targets", targets, "--evaluation.rows", "[specialists, generalist]"
        ),
        tmp_path,
    )
    assert {kind: of_env["planar/reach"]["n"] for kind, of_env in counted[0].items()} == {
        "self": 3,
        "scratch": 4,
    }
    (_, report) = json.loads((tmp_path / "rounds" / "generalist.json").read_text())["rounds"]
    assert report["teachers"] == {"planar/reach": "scratch", "planar/push": "self"}
    rows, *_ = trained[-1]
    visited = rows.steps.source[rows.steps.episode_of_step] == "generalist round 1"
    reach = rows.steps.environment[rows.steps.episode_of_step] == "planar/reach"
    assert (visited & reach).any() and (rows.teacher[visited & reach] == 0).all()
    assert (rows.teacher[visited & ~reach] == RECORDED).all()
    assert (
        rows.probability[visited & reach].sum() == pytest.approx(0.5)
        and (rows.labels.of_row[visited & reach] >= 0).all()
    )
    facts = json.loads((tmp_path / "policies" / "generalist_round1" / "policy.json").read_text())[
        "training"
    ]
    assert facts["rounds"] == 1 and facts["used_success_signal"]


def test_rows_of_rounds_exist_only_where_there_are_rounds():
    from alltrades.errors import UserError

    with pytest.raises(UserError, match="generalist_round1"):
        settings("--evaluation.rows", "[generalist_round1]")
    assert settings(
        "--distill.rounds.count", "1", "--evaluation.rows", "[generalist_round1]"
    ).distillations()
    assert RECORDED < 0


@pytest.mark.parametrize(("patience", "done", "chosen"), [(1, 1, 0), (2, 4, 3)])
def test_so_many_rounds_in_a_row_as_patience_says_may_not_help(
    tmp_path, monkeypatch, patience, done, chosen
):
    successes = [5, 4, 7, 8, 8, 9]  # of ten selection starts, after so many rounds

    def select(context, folder, row, settings):
        first = tuple(5 if i < successes[row.round] else -1 for i in range(10))
        return Evaluation(
            str(row),
            (EnvironmentResult("a", tuple(range(10)), first, (0.0,) * 10, (0.0,) * 10, 10, ""),),
        )

    def train(sources, settings, name, out, visits):
        trained.append((len(visits), sources.initial.name))

    trained, kept, rounds = [], [], "alltrades.pipeline.rounds"
    visited = SimpleNamespace(path=tmp_path, teachers={})
    monkeypatch.setattr(f"{rounds}._select", select)
    monkeypatch.setattr(f"{rounds}._visit", lambda *_: visited)
    monkeypatch.setattr(f"{rounds}._keep", lambda *args: kept.append(args[2].name))
    monkeypatch.setattr(f"{rounds}.train_generalist", train)
    monkeypatch.setattr(f"{rounds}.check_starts", lambda *_: None)
    monkeypatch.setattr(
        EpisodeStore, "open", lambda path: SimpleNamespace(provenance={"tries": []})
    )
    folder = RunFolder(tmp_path)
    sources = Sources(Demonstrations(context_of(SPECS), folder.demos), (), tmp_path)
    distill = DistillSettings(rounds=RoundSettings(count=4, patience=patience))
    run_rounds(folder, sources, Row("g"), distill)
    assert trained == [
        (r + 1, f"g_round{r}") for r in range(done)
    ]  # each goes on from the one before, with all visits
    assert kept == [f"g_round{chosen}"]
    report = json.loads(folder.rounds(Row("g")).read_text())["rounds"]
    assert [r["kept"] for r in report] == [r == chosen for r in range(done + 1)]


def test_a_generalist_takes_the_place_of_the_one_with_other_rounds(tmp_path):
    """The stage that writes it is another one, whose outputs are others."""
    none, one = ("--distill.rounds.count", "0"), ("--distill.rounds.count", "1")
    digests = []
    for words in (one, none, one):
        run(settings(*words, "--evaluation.rows", "[generalist]"), tmp_path)
        digests.append(load_policy(tmp_path / "policies/generalist").digest())
    assert digests[0] == digests[2]
    run(settings(*none, "--evaluation.rows", "[generalist]"), tmp_path / "fresh")
    assert digests[1] == load_policy(tmp_path / "fresh/policies/generalist").digest()
