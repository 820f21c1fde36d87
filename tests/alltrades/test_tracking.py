"""Metrics: JSONL that survives kills and resumes, wandb that never ends a run."""

import json
import os
import re
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from alltrades.system import mirror
from alltrades.system.mirror import Patience
from alltrades.system.processes import descendants
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
    config = {"seed": 1, "environments": ("a", "b")}
    tracker = Tracker(tmp_path, "offline", config, "toy", patience=Patience(finish=60))
    tracker.log("one", 100, {"loss": 0.5})
    tracker.log("two/x", 1, {"loss": 0.25})  # another stage counts from the start again
    tracker.finish()
    runs = list((tmp_path / "wandb").glob("offline-run-*"))
    assert len(runs) == 1
    files = list(runs[0].glob("*.wandb"))
    assert len(files) == 1
    wanted = {b"one/loss", b"two/x/loss", b"environments"}
    assert {w for w in wanted if w not in files[0].read_bytes()} == set()
    assert tuple(capfd.readouterr()) == ("", "")


def test_disabled_wandb_is_not_imported(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it would raise
    tracker = Tracker(tmp_path, "disabled")
    tracker.log("a", 1, {"loss": 1})
    tracker.finish()
    assert not (tmp_path / "wandb").exists()


FAKE = """
import os, time

class Settings:
    model_fields = {{}}

def fail(where):
    if where != {where!r}:
        return
    if {how!r} == "raises":
        raise OSError("disk\\nfull")
    if {how!r} == "hangs":
        time.sleep(1e6)
    os.kill(os.getpid(), 9)

class Run:
    def define_metric(self, *args, **kwargs):
        pass
    def log(self, values):
        fail("log")
    def finish(self):
        fail("finish")

def init(**kwargs):
    fail("init")
    return Run()

def teardown():
    pass

fail("import")
"""
SAID = {
    "raises": "disk full",
    "hangs": "no answer at its .* within|not done 1 s after",
    "dies": "its process ended at its",
}


@pytest.mark.parametrize("where", ["import", "init", "log", "finish"])
@pytest.mark.parametrize("how", ["raises", "hangs", "dies"])
def test_wandb_failing_is_one_warning_and_neither_ends_nor_slows_the_run(
    tmp_path, monkeypatch, capsys, where, how
):
    (tmp_path / "wandb.py").write_text(FAKE.format(where=where, how=how))
    monkeypatch.syspath_prepend(str(tmp_path))
    finish = 1 if how == "hangs" else 60
    tracker = Tracker(tmp_path, "offline", patience=Patience(finish=finish))
    start = time.monotonic()
    tracker.log("a", 1, {"loss": 1})
    tracker.log("a", 2, {"loss": np.float32(1)})
    tracker.finish()
    assert time.monotonic() - start < 10
    assert steps(tracker, "a") == [1, 2]
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("warning: wandb stopped")
    assert re.search(SAID[how], err), err


def test_a_wandb_that_hangs_is_given_up_while_the_run_goes_on(tmp_path, monkeypatch, capsys):
    (tmp_path / "wandb.py").write_text(FAKE.format(where="log", how="hangs"))
    monkeypatch.syspath_prepend(str(tmp_path))
    tracker = Tracker(tmp_path, "offline", patience=Patience(start=20, log=0.5, finish=60))
    tracker.log("a", 1, {"loss": 1})
    deadline, err = time.monotonic() + 20, ""
    while not err and time.monotonic() < deadline:
        time.sleep(0.05)
        err = capsys.readouterr().err
    assert "no answer at its log within 0.5 s" in err
    start = time.monotonic()
    tracker.log("a", 2, {"loss": 1})
    tracker.finish()
    assert time.monotonic() - start < 1 and steps(tracker, "a") == [1, 2]
    assert capsys.readouterr().err == ""


def test_lines_that_wait_for_a_slow_wandb_are_bounded(tmp_path, monkeypatch, capsys):
    (tmp_path / "wandb.py").write_text(FAKE.format(where="log", how="hangs"))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(mirror, "WAITING", 5)
    tracker = Tracker(tmp_path, "offline")
    for step in range(50):
        tracker.log("a", step, {"text": "x" * 10_000})  # more than a pipe holds
    tracker.finish()
    assert "5 lines wait for it" in capsys.readouterr().err
    assert steps(tracker, "a") == list(range(50))


def test_a_wandb_folder_that_cannot_be_made_is_one_warning(tmp_path, capsys):
    (tmp_path / "wandb").write_text("a file")
    tracker = Tracker(tmp_path, "offline")
    for step in (1, 2):
        tracker.log("a", step, {"loss": 1})
    tracker.finish()
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith("warning: wandb stopped")
    assert steps(tracker, "a") == [1, 2]


def test_killing_wandbs_own_processes_in_the_middle_leaves_the_run_alone(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    tracker = Tracker(tmp_path, "offline", patience=Patience(log=3, finish=10))
    tracker.log("a", 1, {"loss": 1})
    deadline, served = time.monotonic() + 60, list[int]()
    while not served and time.monotonic() < deadline:
        time.sleep(0.05)
        served = [
            pid
            for pid in descendants(os.getpid())
            if b"wandb-core" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
    assert served
    for process in served:
        os.kill(process, signal.SIGKILL)
    tracker.log("a", 2, {"loss": 1})
    tracker.finish()
    assert steps(tracker, "a") == [1, 2]
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith("warning: wandb stopped")


def test_wandb_online_without_a_network_is_one_warning(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    tracker = Tracker(tmp_path, "online", patience=Patience(start=15, log=5, finish=3))
    tracker.log("a", 1, {"loss": 1})
    start = time.monotonic()
    tracker.finish()
    assert time.monotonic() - start < 5
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith("warning: wandb stopped")
    assert steps(tracker, "a") == [1]


def test_a_run_with_nothing_to_log_makes_no_wandb_run(tmp_path):
    tracker = Tracker(tmp_path, "offline")
    tracker.finish()
    assert list(tmp_path.iterdir()) == []
