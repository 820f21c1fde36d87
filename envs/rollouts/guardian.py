"""A process that ends the process groups of workers when their parent is gone, however it ended.

A worker that hangs notices nothing, and a simulator that an environment started in a process of its
own outlives the worker. So a guardian, in a session of its own, reads the groups from a pipe; when
the pipe ends because the parent did, it kills those that are left. It imports nothing of ours.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from multiprocessing import spawn
from typing import BinaryIO

_lock = threading.Lock()
_groups: set[int] = set()
_pipe: BinaryIO | None = None
_owner = 0  # process that opened the pipe


def watch(group: int) -> None:
    """Kill this process group when the process that calls has ended."""
    with _lock:
        _groups.add(group)
        _tell(f"+{group}\n")


def forget(group: int) -> None:
    """The group has ended."""
    with _lock:
        _groups.discard(group)
        _tell(f"-{group}\n")


def kill_group(group: int) -> None:
    """Kill a process group, and the process of that number where it leads none yet."""
    for kill in (os.killpg, os.kill):
        try:
            kill(group, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass


def _tell(word: str) -> None:
    global _owner
    if _owner != os.getpid():  # the first one, or after a fork, whose guardian is its parent's
        _owner = os.getpid()
        _start()
        return
    assert _pipe is not None
    try:
        _pipe.write(word.encode())
    except OSError:
        _start()  # it was killed; another takes its place


def _start() -> None:
    global _pipe
    end, begin = os.pipe()
    try:
        os.posix_spawn(
            os.fsdecode(spawn.get_executable()),
            [os.fsdecode(spawn.get_executable()), "-I", "-S", os.path.abspath(__file__)],
            {},
            file_actions=[(os.POSIX_SPAWN_DUP2, end, 0)],
            setsid=True,
        )
    finally:
        os.close(end)
    _pipe = os.fdopen(begin, "wb", buffering=0)
    _pipe.write("".join(f"+{group}\n" for group in _groups).encode())


def _main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    for word in sys.stdin:
        (groups.add if word[0] == "+" else groups.discard)(int(word[1:]))
    for group in groups:
        kill_group(group)


if __name__ == "__main__":
    _main()
