"""One thread that runs policy calls beside the robot's: a call that never returns keeps neither the
robot nor the process.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any

PATIENCE = 2.0  # seconds that the end of a worker waits for a call that still runs


class BackgroundThread(Executor):
    """Runs calls one after another in a daemon thread, which begins with the first of them.

    The threads of `ThreadPoolExecutor` are waited for when the process ends, so that a hung policy
    would keep it for ever.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = (
            queue.SimpleQueue()
        )
        self._thread: threading.Thread | None = None

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._calls.put((future, partial(function, *args, **kwargs)))
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the thread after its calls, or (cancel_futures) after the one that runs; waits for
        `PATIENCE` seconds at most.
        """
        while cancel_futures and not self._calls.empty():
            item = self._calls.get()
            if item is not None:
                item[0].cancel()
        self._calls.put(None)
        if wait and self._thread is not None:
            self._thread.join(PATIENCE)

    def _work(self) -> None:
        while (item := self._calls.get()) is not None:
            future, call = item
            if not future.set_running_or_notify_cancel():
                continue
            try:
                found = call()
            except BaseException as error:  # whoever asked gets it
                future.set_exception(error)
            else:
                future.set_result(found)
