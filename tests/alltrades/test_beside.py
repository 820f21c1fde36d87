"""Jobs beside one another: what ends them, also those that run jobs of their own."""

import threading
import time

import pytest

from alltrades.pipeline.beside import Beside, Stopped


def wait_until_stopped(beside, seen):
    for _ in range(1000):
        try:
            beside.check()
        except Stopped:
            seen.append("stopped")
            raise
        time.sleep(0.01)
    seen.append("never stopped")


def fail():
    time.sleep(0.05)
    raise ValueError("out of luck")


@pytest.mark.parametrize("where", ["outside", "inside"])
def test_failure_ends_every_job_and_is_what_is_raised(where):
    beside, seen = Beside(2), []

    def waits():
        wait_until_stopped(beside, seen)

    def nested():
        beside.run([waits, fail] if where == "inside" else [waits, waits])

    with pytest.raises(ValueError, match="out of luck"):
        beside.run([nested, waits] if where == "inside" else [nested, fail])
    assert seen == ["stopped", "stopped"]
    assert not any(t.name.startswith("beside") for t in threading.enumerate())
    beside.check()  # and may run others


def test_end_of_inner_jobs_does_not_hide_a_failure_from_those_around_them():
    beside, seen = Beside(2), []

    def nested():
        time.sleep(0.2)  # the other job has failed by now
        beside.run([lambda: None])
        wait_until_stopped(beside, seen)

    with pytest.raises(ValueError):
        beside.run([nested, fail])
    assert seen == ["stopped"]


@pytest.mark.parametrize("count", [1, 2])
def test_every_job_is_run_in_threads_of_its_own_or_here(count):
    beside, seen = Beside(count), []

    def note():
        seen.append(threading.current_thread().name)

    beside.run([note, lambda: beside.run([note, note])])
    assert len(seen) == 3
    assert all((name == threading.current_thread().name) == (count == 1) for name in seen)


def test_it_is_known_whether_there_are_jobs_beside_one_another():
    beside, seen = Beside(2), []

    def note():
        seen.append(beside.several)

    beside.run([note])
    beside.run([note, note])
    beside.run([lambda: beside.run([note])])  # one, and one of its own
    assert seen == [False, True, True, True] and not beside.several
