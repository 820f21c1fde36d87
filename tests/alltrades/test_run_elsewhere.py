"""A run whose independent work an executor of other machines does: the same bits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alltrades.pipeline import context
from alltrades.pipeline.runner import run
from alltrades.policies.learning import elsewhere
from alltrades.system.compute.processes import Processes
from tests.alltrades.posted import Posted
from tests.alltrades.small_run import settings

SETTINGS = [
    *("--environments", "[planar/reach]", "--trainings", "2"),
    *("--specialist.selection", "holdout", "--demos.episodes", "4"),
    *("--distill.weights.kind", "ratio", "--distill.rollouts", "4"),
    *("--evaluation.rows", "[generalist,labeled_only_holdout]", "--generalists", "{}"),
    *("--training.checkpoint_every", "20"),
]
UNLIKE = ("settings.yaml", "environments.json")  # which hold the executor, and how fast steps were


def contents(folder: Path) -> dict[str, bytes]:
    """Files of a run, but for what has times in it."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in UNLIKE]
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in files
        if not path.name.endswith(".jsonl") and path.name != "manifest.json"
    }


def metrics(folder: Path) -> list[dict]:
    """What trainings recorded, without when."""
    lines = [line for path in sorted(folder.rglob("*.jsonl")) for line in path.open()]
    rows = [json.loads(line) for line in lines]
    return sorted(({k: v for k, v in r.items() if k != "time"} for r in rows), key=str)


def test_a_run_elsewhere_writes_the_same_bits(tmp_path, monkeypatch):
    run(settings(*SETTINGS), tmp_path / "here")
    posted = Posted()
    monkeypatch.setattr(context, "executor_of", lambda *_: posted)
    run(settings(*SETTINGS), tmp_path / "there")
    here, there = contents(tmp_path / "here"), contents(tmp_path / "there")
    assert {k for k in here if here[k] != there.get(k)} == set() and here.keys() == there.keys()
    assert metrics(tmp_path / "here") == metrics(tmp_path / "there") != []
    assert posted.sent > 12  # collection, trainings, rollouts, labels, weights, evaluation


def test_trainings_in_processes_of_their_own_write_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(elsewhere, "WORTH", float("inf"))
    run(settings(*SETTINGS), tmp_path / "threads")
    monkeypatch.setattr(elsewhere, "WORTH", 0)
    sent, call = [], Processes.call

    def counted(self, function, item, *args, **named):
        sent.append(type(item[0]).__name__)
        return call(self, function, item, *args, **named)

    monkeypatch.setattr(Processes, "call", counted)
    run(settings(*SETTINGS), tmp_path / "processes")
    threads, processes = contents(tmp_path / "threads"), contents(tmp_path / "processes")
    assert {k for k in threads if threads[k] != processes.get(k)} == set()
    assert threads.keys() == processes.keys()
    assert metrics(tmp_path / "threads") == metrics(tmp_path / "processes") != []
    assert set(sent) == {"Trainer", "StackedTrainer"}


def test_one_training_after_another_needs_no_process(tmp_path, monkeypatch):
    monkeypatch.setattr(elsewhere, "WORTH", 0)
    monkeypatch.setattr(Processes, "__init__", lambda *_: pytest.fail("a process was asked for"))
    run(settings(*SETTINGS, "--trainings", "1"), tmp_path / "run")
