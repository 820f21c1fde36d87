"""A run that is killed, at any moment, ends with what it would have made."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.alltrades.small_run import SMALL, differing, results


@pytest.mark.slow
def test_run_killed_at_many_moments_ends_with_the_same_bits(tmp_path):
    """kill -9 after growing delays, again and again, then to the end."""
    folder = tmp_path / "killed"
    command = [
        sys.executable,
        "-m",
        "alltrades.cli",
        "run",
        "--small",
        "--out",
        str(folder),
        *SMALL,
        "--training.checkpoint_every",
        "20",
    ]
    kills, delay = 0, 4.0
    deadline = (
        time.monotonic() + 600
    )  # each try is given longer than the one before: a busy machine gets there, too
    while time.monotonic() < deadline:
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=tmp_path
        )
        try:
            _, err = process.communicate(timeout=delay)
            assert process.returncode == 0, err.decode()[-2000:]
            break
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
            kills, delay = kills + 1, delay * 1.3
    else:
        pytest.fail("the run did not finish")
    assert kills >= 2
    whole = tmp_path / "whole"
    subprocess.run(
        [str(whole) if word == str(folder) else word for word in command],
        check=True,
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
    )
    assert differing(results(folder), results(whole)) == []
