"""Processes that are started anew, and what they take over."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker

_LOCK = threading.Lock()  # threads start processes at the same time
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@contextmanager
def inherited() -> Iterator[None]:
    """What a process takes over from its parent at the start: one thread for linear algebra, and
    Ctrl-C held back.

    A terminal sends Ctrl-C to all processes; one that is still importing would end with a
    traceback of its own.
    """
    with _LOCK:
        resource_tracker.ensure_running()  # starting it later would lift the block
        threads = {name: os.environ.get(name) for name in THREADS}
        os.environ.update(dict.fromkeys(THREADS, "1"))
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            for name, value in threads.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
