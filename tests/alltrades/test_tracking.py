"""Metrics: JSONL that survives kills and resumes, wandb that never ends a run."""

import json
import sys
import time
import types

import pytest

from alltrades.system.tracking import Tracker, read_metrics


def steps(tracker: Tracker, stage: str) -> list[int]:
    return [line["step"] for line in read_metrics(tracker.folder, stage)]


def test_lines_are_json_with_step_and_values(tmp_path):
    tracker = Tracker(tmp_path, "disabled")
    tracker.log("specialist/scratch/reach", 100, {"loss": 0.5, "lr": 1e-3})
    tracker.log("specialist/scratch/reach", 200, {"loss": float("nan")})
    path = tmp_path / "metrics" / "specialist" / "scratch" / "reach.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(x["step"], x["loss"]) for x in lines] == [(100, 0.5), (200, None)]
    assert lines[0]["time"] <= lines[1]["time"]


def test_resume_drops_lines_beyond_the_step_and_a_line_cut_short(tmp_path):
    tracker = Tracker(tmp_path, "disabled")
    for step in (1, 2, 3, 4):
        tracker.log("a", step, {"loss": step})
    with tracker.path("a").open("a") as file:
        file.write('{"step": 5, "lo')
    tracker = Tracker(tmp_path, "disabled")
    tracker.resume("a", 2)
    assert steps(tracker, "a") == [1, 2]
    tracker.log("a", 3, {"loss": 0})
    assert steps(tracker, "a") == [1, 2, 3]


def test_a_new_process_overwrites_the_steps_it_repeats(tmp_path):
    first = Tracker(tmp_path, "disabled")
    for step in (100, 200, 300):
        first.log("a", step, {"loss": 1.0})
    second = Tracker(tmp_path, "disabled")
    second.log("a", 200, {"loss": 2.0})
    second.log("a", 300, {"loss": 2.0})
    assert [(x["step"], x["loss"]) for x in read_metrics(tmp_path, "a")] == [
        (100, 1.0),
        (200, 2.0),
        (300, 2.0),
    ]
    assert read_metrics(tmp_path, "nothing") == []


def test_offline_wandb_writes_a_run_into_the_folder_and_stays_quiet(tmp_path, capfd, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    tracker = Tracker(tmp_path, "offline", {"seed": 1, "environments": ("a", "b")}, "toy")
    tracker.log("one", 100, {"loss": 0.5})
    tracker.log("two/x", 1, {"loss": 0.25})  # another stage counts from the start again
    tracker.finish()
    runs = list((tmp_path / "wandb").glob("offline-run-*"))
    assert len(runs) == 1
    files = list(runs[0].glob("*.wandb"))
    assert len(files) == 1
    wanted = {b"one/loss", b"two/x/loss", b"environments"}
    deadline = (
        time.monotonic() + 20
    )  # wandb's own process writes the file a moment after finish() returns
    while missing := {w for w in wanted if w not in files[0].read_bytes()}:
        assert time.monotonic() < deadline, missing
        time.sleep(0.02)
    assert tuple(capfd.readouterr()) == ("", "")


def test_disabled_wandb_is_not_imported(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it would raise
    tracker = Tracker(tmp_path, "disabled")
    tracker.log("a", 1, {"loss": 1})
    tracker.finish()
    assert not (tmp_path / "wandb").exists()


@pytest.mark.parametrize("broken", ["import", "init", "log", "finish"])
def test_wandb_failing_is_one_warning_and_metrics_go_on(tmp_path, monkeypatch, capsys, broken):
    class Run:
        def log(self, values: dict) -> None:
            if broken == "log":
                raise OSError("disk\nfull")

        def define_metric(self, *args: object, **kwargs: object) -> None:
            pass

        def finish(self) -> None:
            if broken == "finish":
                raise OSError("disk\nfull")

    def init(**kwargs: object) -> Run:
        if broken == "init":
            raise OSError("disk\nfull")
        return Run()

    class Settings:
        model_fields: dict = {}

    fake = types.ModuleType("wandb")
    fake.init, fake.Settings = init, Settings  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", None if broken == "import" else fake)
    tracker = Tracker(tmp_path, "offline")
    tracker.log("a", 1, {"loss": 1})
    tracker.log("a", 2, {"loss": 1})
    tracker.finish()
    assert steps(tracker, "a") == [1, 2]
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("warning: wandb stopped")


def test_a_run_with_nothing_to_log_makes_no_wandb_run(tmp_path):
    tracker = Tracker(tmp_path, "offline")
    tracker.finish()
    assert list(tmp_path.iterdir()) == []
