"""Commands that are killed, at any moment, end with what they would have made."""

from pathlib import Path

import pytest

from alltrades.bench import kills
from alltrades.bench.kills import KINDS, Kind
from alltrades.cli import main

VICTIM = """
import os, pathlib, random, subprocess, sys, time
out, how = pathlib.Path("out"), {how!r}
if how == "orphan":
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
if how == "loses" and out.exists():
    out.unlink()
for i in range(len(out.read_text()) if out.exists() else 0, 39 if how == "lingers" else 40):
    time.sleep(0.01)
    text = out.read_text() if out.exists() else ""
    more = str(random.randint(0, 9)) if how == "random" else "x"
    pathlib.Path("part").write_text(text + more)
    os.replace("part", out)
if how == "lingers":
    out.write_text(out.read_text() + "x")  # of its own count: a start at the end writes too much
    time.sleep(0.3)
sys.exit(3 if how == "fails" and len(sys.argv) == 1 else 0)
"""


def text(folder: Path) -> str:
    return (folder / "out").read_text() if (folder / "out").exists() else ""


@pytest.mark.parametrize(
    "how, said",
    [
        ("right", ""),
        ("random", "out differs"),
        ("loses", "lost: "),
        ("orphan", "1 processes outlived"),
        ("fails", "exit code 3"),
    ],
)
def test_bench_kills_tells_a_difference_a_loss_an_orphan_and_an_error(
    monkeypatch, capsys, how, said
):
    def prepare(inputs: Path, name: str) -> None:
        inputs.mkdir()
        (inputs / "victim.py").write_text(VICTIM.format(how=how))

    kind = Kind(
        lambda _: ["victim"],
        lambda folder: {"out": text(folder)},
        lambda folder: {f"{i} letters" for i in range(len(text(folder)))},
    )
    monkeypatch.setattr(kills, "_prepare", prepare)
    monkeypatch.setattr(kills, "LEFT", 0.5)
    monkeypatch.setitem(KINDS, "victim", kind)
    code = main(["bench", "kills", "--kinds", "victim", "--count", "12", "--seed", "1"])
    out = capsys.readouterr().out
    assert code == (1 if said else 0) and said in out
    assert "victim" in out.splitlines()[-1]
    if not said:
        assert "victim: 12 kills done" in out


def test_what_a_killed_command_had_done_to_its_end_is_not_started_again(monkeypatch, capsys):
    def prepare(inputs: Path, name: str) -> None:
        inputs.mkdir()
        (inputs / "victim.py").write_text(VICTIM.format(how="lingers"))

    kind = Kind(
        lambda folder: [] if len(text(folder)) >= 40 else ["victim"],
        lambda folder: {"out": text(folder)},
        lambda folder: {f"{i} letters" for i in range(len(text(folder)))},
    )
    monkeypatch.setattr(kills, "_prepare", prepare)
    monkeypatch.setattr(kills, "WRITES", 200)  # most kills come while it lingers
    monkeypatch.setitem(KINDS, "victim", kind)
    assert main(["bench", "kills", "--kinds", "victim", "--count", "12", "--seed", "1"]) == 0
    assert "victim: 12 kills done" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--kinds", "nothing"], ["--seed", "-1"]])
def test_kills_that_cannot_be_are_refused(capsys, words):
    assert main(["bench", "kills", *words]) == 2
    assert "expected some of run, collect, append, train, deploy" in capsys.readouterr().err


@pytest.mark.slow
def test_twenty_kills_at_random_moments_leave_the_same_bits_and_lose_nothing(capsys):
    code = main(["bench", "kills", "--count", "20", "--seed", "7"])
    assert code == 0, capsys.readouterr().out
