"""Progress: a live line on a terminal, one plain line elsewhere."""

import io
import re
import subprocess
import sys

import pytest

from alltrades.system.progress import Progress, StatusLine, clock


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_without_a_terminal_there_is_one_plain_line_at_the_end():
    out = io.StringIO()
    with Progress("specialists", 10, "env", stream=out) as progress:
        for i in range(10):
            progress.update(i + 1)
            assert out.getvalue() == ""
    assert re.fullmatch(r"specialists  10/10  \d+\.\d s\n", out.getvalue())


def test_it_goes_to_stderr(capsys):
    with Progress("weigh", 1):
        pass
    out, err = capsys.readouterr()
    assert out == "" and re.fullmatch(r"weigh  1/1  \d+\.\d s\n", err)


def test_a_stage_that_fails_leaves_no_line():
    out = io.StringIO()
    with pytest.raises(ValueError, match="boom"), Progress("a", 10, stream=out) as progress:
        progress.update(3)
        raise ValueError("boom")
    assert out.getvalue() == ""


def test_on_a_terminal_the_live_line_shows_count_rate_and_time_left(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("alltrades.system.progress.time.monotonic", lambda: now[0])
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    out = Terminal()
    with Progress("distill [x]", 1000, "step", stream=out) as progress:
        for done in (1, 250):
            now[0] += 5
            progress.update(done)
        progress._live.refresh()
        shown = out.getvalue()
        assert (
            "distill [x]" in shown
            and "250/1000" in shown
            and "25 step/s" in shown
            and "0:30 left" in shown
        )
        now[0] += 2.3
    assert out.getvalue().endswith("distill [x]  250/1000  12.3 s\n")


def test_work_of_an_earlier_process_does_not_count_into_the_rate(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("alltrades.system.progress.time.monotonic", lambda: now[0])
    with Progress("a", 1000, "step", stream=io.StringIO()) as progress:
        assert progress.pace(now[0]) == ""
        now[0] = 1.0
        progress.update(501)  # resumed
        assert progress.pace(now[0]) == ""
        now[0] = 11.0
        progress.update(511)
        assert progress.pace(now[0]) == "1 step/s  8:09 left"


def test_slow_work_is_shown_as_seconds_per_unit(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("alltrades.system.progress.time.monotonic", lambda: now[0])
    with Progress("a", 3, "env", stream=io.StringIO()) as progress:
        now[0] = 20.0
        progress.update(1)
        assert progress.pace(now[0]) == "20 s/env  0:40 left"


def test_clock():
    assert [clock(x) for x in (0, 59.6, 61, 3661, -1)] == [
        "0:00",
        "1:00",
        "1:01",
        "1:01:01",
        "0:00",
    ]


def screen(written: str) -> list[str]:
    """Lines that a terminal shows after `written`: "\\x1b[K" erases from the cursor on."""
    return [line.rsplit("\r\x1b[K", 1)[-1] for line in written.split("\n")]


@pytest.fixture
def clock_of_the_line(monkeypatch):
    now = [10.0]
    monkeypatch.setattr("alltrades.system.progress.time.monotonic", lambda: now[0])
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "12")
    return now


def test_a_status_line_is_written_over_seldom_and_only_on_a_terminal(clock_of_the_line):
    for out, expected in (
        (Terminal(), ["1 aaaaaaaaa", "1 aaaaaaaaa", "3 aaaaaaaaa"]),
        (io.StringIO(), ["", "", ""]),
    ):
        with StatusLine(out) as line:
            seen = []
            for step, seconds in ((1, 0.0), (2, 0.05), (3, 0.06)):
                clock_of_the_line[0] += seconds
                line.show(lambda step=step: f"{step} {'a' * 40}")
                seen.append("".join(screen(out.getvalue())))
        assert seen == expected
        assert "".join(screen(out.getvalue())) == ""
    assert out.getvalue() == ""


def test_what_is_printed_after_a_clear_stays_above_the_status_line(clock_of_the_line):
    out = Terminal()
    with StatusLine(out) as line:
        line.show(lambda: "one [red]")  # no markup
        assert screen(out.getvalue()) == ["one [red]"]
        line.clear()
        out.write("stays\n")
        line.show(lambda: "two")
        assert screen(out.getvalue()) == ["stays", "two"]
    assert screen(out.getvalue()) == ["stays", ""]


def test_a_status_line_needs_no_library():
    code = """
import sys
from alltrades.system.progress import StatusLine
sys.stderr.isatty = lambda: True
with StatusLine() as line:
    line.show(lambda: "step 1")
print(sorted({m.partition(".")[0] for m in sys.modules} & {"rich", "numpy", "pydantic"}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]" and "step 1" in done.stderr
