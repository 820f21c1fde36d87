"""The thread of policy calls."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from alltrades.policies.control import background
from alltrades.policies.control.background import BackgroundThread


def test_calls_run_one_after_another_in_one_thread_and_what_they_raise_is_kept() -> None:
    executor, seen = BackgroundThread("w"), []
    calls = [
        executor.submit(lambda i=i: seen.append((i, threading.current_thread().name)))
        for i in range(20)
    ]
    failing = executor.submit(lambda: 1 // 0)
    assert isinstance(failing.exception(60), ZeroDivisionError)
    assert seen == [(i, "w") for i in range(20)] and all(c.done() for c in calls)
    assert executor.submit(divmod, 7, 2).result(60) == (3, 1)
    executor.shutdown()


def test_a_call_that_hangs_is_left_behind_and_those_after_it_are_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(background, "PATIENCE", 0.05)
    executor, release = BackgroundThread("w"), threading.Event()
    hangs, after = executor.submit(release.wait), executor.submit(int)
    while not hangs.running():
        pass
    executor.shutdown(cancel_futures=True)
    assert after.cancelled() and not hangs.done()
    release.set()
    assert hangs.result(60)


def test_a_process_ends_though_a_call_never_does() -> None:
    code = (
        "import threading; from alltrades.policies.control.background import BackgroundThread; "
        "call = BackgroundThread('w').submit(threading.Event().wait)\n"
        "while not call.running(): pass"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
