"""A run whose independent work an executor of other machines does: the same bits."""

from __future__ import annotations

import json
from pathlib import Path

from alltrades.pipeline import context
from alltrades.pipeline.runner import run
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
