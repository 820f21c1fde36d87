"""Tasks in processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any

from alltrades.system.compute.executor import Ears, Executor, Function, Here, Kept

AHEAD = 2  # times the processes: tasks that are sent before the results of those before are taken


class Processes(Executor):
    """`slots` processes, which end when this one does, however it ends. What tasks say goes to
    stderr; how far they are is not told.
    """

    remote = True

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._pool = ProcessPoolExecutor(
            slots, multiprocessing.get_context("spawn"), end_with_parent
        )

    def map(
        self, function: Function, items: Iterable[Any], shared: Any = None, ears: Ears | None = None
    ) -> Generator[Any, None, None]:
        sent: deque[Future[Any]] = deque()
        try:
            for item in items:
                sent.append(self._pool.submit(_call, function, shared, item))
                if len(sent) >= AHEAD * self.slots:
                    yield sent.popleft().result()
            while sent:
                yield sent.popleft().result()
        finally:
            for future in sent:
                future.cancel()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


_kept = Kept()


def _call(function: Function, shared: Any, item: Any) -> Any:
    return function(Here(_kept), shared, item)


def end_with_parent() -> None:
    """End this process when its parent has ended: else one that waits for work does so for ever
    where its parent was killed.
    """
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
