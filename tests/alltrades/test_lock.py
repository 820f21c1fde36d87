"""One writer per folder, tried with processes that are killed."""

import os
import subprocess
import sys
import textwrap

import pytest

from alltrades import cli
from alltrades.errors import UserError
from alltrades.system.lock import Lock, locked

HOLD = """
import sys, time
from alltrades.system.lock import locked
with locked(sys.argv[1]):
    print("locked", flush=True)
    time.sleep(60)
"""


def holder(path, code: str = HOLD) -> subprocess.Popen:
    """A process that holds the folder's lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "locked\n"
    process.stdout.close()
    return process


def test_a_killed_holder_frees_the_folder(tmp_path):
    process = holder(tmp_path)
    try:
        with pytest.raises(UserError, match=f"{tmp_path} is in use by process {process.pid};"):
            Lock(tmp_path).acquire()
    finally:
        process.kill()
        process.wait()
    with locked(tmp_path):
        with pytest.raises(UserError, match=f"process {os.getpid()};"), locked(tmp_path):
            pass
    assert list(tmp_path.iterdir()) == []


def test_a_fork_that_outlives_the_holder_keeps_nothing_locked(tmp_path):
    code = """
    import os, sys, time
    from alltrades.system.lock import Lock
    lock = Lock(sys.argv[1])
    lock.acquire()
    said, say = os.pipe()
    if not os.fork():
        os.write(say, b"x")
        os.close(1)
        time.sleep(20)
        os._exit(0)
    os.read(said, 1)  # the child runs
    print("locked", flush=True)
    time.sleep(60)
    """
    process = holder(tmp_path, code)
    process.kill()
    process.wait()
    with locked(tmp_path):
        pass


def test_a_folder_made_for_nothing_is_removed_and_one_with_files_stays(tmp_path):
    with locked(tmp_path / "empty"):
        assert (tmp_path / "empty").is_dir()
    with locked(tmp_path / "full"):
        (tmp_path / "full" / "a").write_text("x")
    with locked(tmp_path / "full"):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["full"]
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["a"]


def test_two_processes_that_come_and_go_are_never_inside_together(tmp_path):
    code = """
    import sys, time
    from pathlib import Path
    from alltrades.errors import UserError
    from alltrades.system.lock import locked
    folder, inside, got = Path(sys.argv[1]) / "new", Path(sys.argv[1]) / "inside", 0
    end = time.monotonic() + 60
    while got < 100 and time.monotonic() < end:
        try:
            with locked(folder):
                inside.mkdir()
                inside.rmdir()
                got += 1
        except UserError as error:
            assert "in use by process" in str(error), error
    assert got == 100, got
    """
    words = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    processes = [subprocess.Popen(words) for _ in range(3)]
    assert [p.wait() for p in processes] == [0, 0, 0]


def test_a_folder_that_cannot_be_made_is_refused_in_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing" / "there")
    for path in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "dangling", "/proc/x"):
        with pytest.raises(UserError, match="expected a folder that can be written"):
            Lock(path).acquire()


@pytest.mark.parametrize("words", [["train", "labeled_only"], ["weigh", "r"], ["distill"]])
def test_commands_refuse_an_output_folder_that_another_writes(tmp_path, capsys, words):
    words += ["--environments", "[planar/reach]", "--demos", "none.zarr", "--out", str(tmp_path)]
    words += ["--teacher", "a=b:c"] if words[0] == "distill" else []
    process = holder(tmp_path)
    try:
        assert cli.main(words) == 2
    finally:
        process.kill()
        process.wait()
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"{tmp_path} is in use by process {process.pid}" in error
