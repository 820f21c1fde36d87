"""A command in several processes of torchrun: who works, who waits, and what becomes of a loss."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from alltrades.cli import main
from alltrades.errors import UserError
from alltrades.policies.learning.sharing import ALONE, share
from alltrades.system import ranks
from alltrades.system.processes import alive, descendants
from tests.alltrades.recordings import follow

ROOT = Path(__file__).parents[2]


def _groups(count: int) -> list[ranks.Group]:
    store = dist.HashStore()
    return [ranks.Group(rank, count, store) for rank in range(count)]


def test_a_loss_is_said_once_by_whoever_notices_it_first(capsys):
    groups = _groups(3)
    for group in (groups[2], groups[0], groups[1], groups[2]):
        group.say(ranks.Lost("one of them ended"))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("alltrades: 3 processes worked at this command and one of them ended;")


def test_those_that_wait_end_with_the_first():
    first, other = _groups(2)
    assert not other.ended()
    first.tell_end()
    assert other.ended() and other.called() is None


def test_an_error_of_the_network_is_a_loss_and_any_other_is_not():
    with pytest.raises(ranks.Lost), ranks.reaching():
        raise RuntimeError("[gloo/transport/tcp/pair.cc:537] Connection reset by peer")
    with pytest.raises(RuntimeError, match="shapes"), ranks.reaching():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


def test_a_batch_smaller_than_the_processes_is_refused_before_anything_is_sent(monkeypatch):
    def shared():
        return share([], lambda *_: torch.zeros(3), 3, torch.device("cpu"), dict)

    assert shared() is ALONE
    monkeypatch.setattr(ranks, "_GROUP", _groups(4)[:1])
    with pytest.raises(UserError, match="batch = 3 for 4 processes; expected at least one window"):
        shared()


def test_one_process_of_a_launcher_is_as_none(monkeypatch):
    for name, value in zip(ranks.TOLD, ("0", "1", "localhost", "29500"), strict=True):
        monkeypatch.setenv(name, value)
    assert not ranks.started_together()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert ranks.started_together()


def _command(demos: Path, out: Path, count: int) -> list[str]:
    """A training of the baseline by torchrun, of 400 steps with checkpoints."""
    settings = ["--labeled_only.steps", "400", "--labeled_only.batch", "16", "--policy.width", "32"]
    settings += ["--policy.depth", "1", "--training.checkpoint_every", "20"]
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    words += ["--nproc-per-node", str(count), "-m", "alltrades", "train", "labeled_only"]
    return [*words, "--demos", str(demos), *settings, "--out", str(out)]


def _ranks(pid: int) -> dict[int, int]:
    """Process of each rank that a launcher has started."""
    found = {}
    for child in descendants(pid):
        for word in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            if word.startswith(b"RANK="):
                found[int(word[5:])] = child
    return found


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_process_ends_all_in_one_line_and_the_same_command_goes_on(tmp_path, lost):
    demos, out = follow(tmp_path / "arm.zarr"), tmp_path / "policy"
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    made: dict[str, Any] = {"text": True, "env": env, "cwd": ROOT}
    made |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(_command(demos, out, 3), **made) as process:
        work = out / ".stage" / "work"
        while not list(work.rglob("checkpoint.json")):
            assert process.poll() is None
            time.sleep(0.05)
        processes = _ranks(process.pid)
        os.kill(processes[lost], signal.SIGKILL)
        stdout, stderr = process.communicate(timeout=240)
    assert process.returncode != 0 and "wrote" not in stdout
    (line,) = [line for line in stderr.splitlines() if line.startswith("alltrades:")]
    assert "3 processes" in line and "give the same command again" in line
    assert stderr.count("Traceback") == 1  # of the launcher itself
    assert not any(alive(pid) for pid in processes.values())
    (index,) = work.rglob("checkpoint.json")
    assert 0 < json.loads(index.read_text())["step"] < 400

    done = subprocess.run(_command(demos, out, 2), **made, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("wrote") == 1 and done.stderr.count("2 processes:") == 1
    assert json.loads((out / "policy.json").read_text())["training"]["steps"] == 400
    assert not list(work.rglob("checkpoint*"))


@pytest.mark.slow
def test_a_mistake_of_the_user_is_one_line_of_the_first_process(tmp_path):
    demos, out = follow(tmp_path / "arm.zarr"), tmp_path / "policy"
    command = [*_command(demos, out, 2), "--labeled_only.batch", "1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    lines = [line for line in done.stderr.splitlines() if line.startswith("alltrades:")]
    assert done.returncode != 0 and len(lines) == 1
    assert lines[0].startswith("alltrades: batch = 1 for 2 processes")


def test_bench_ranks_refuses_what_it_does_not_measure(capsys):
    assert main(["bench", "ranks", "--kinds", "sounds"]) == 2
    assert "expected some of states, images" in capsys.readouterr().err


@pytest.mark.slow
def test_bench_ranks_compares_equal_trainings(tmp_path, capsys):
    words = ["--kinds", "states", "--names", "planar/reach", "--steps", "2", "--repeat", "1"]
    out = tmp_path / "figures.json"
    assert main(["bench", "ranks", *words, "--json", str(out)]) == 0
    *measured, ratio = json.loads(out.read_text())
    assert {x["processes"] for x in measured} == {1, 2}
    assert ratio["ratio"] > 0 and ratio["ok"]
    assert "losses" in capsys.readouterr().out
