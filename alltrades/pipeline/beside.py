"""Work of a run beside other work of it: jobs in threads, in each of which PyTorch uses one
processor thread.

A training step of a network of a few million parameters keeps one core busy and a second one
waiting: two trainings beside one another end well before one after the other on two cores each, and
other programs disturb them less. The steps of small ones are mostly Python's, which does one
thread's at a time: such a training goes on in a process of its own (`Context.trainers`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

import torch

from alltrades.policies.model.threads import threads
from alltrades.system.compute.executor import Executor


class Stopped(BaseException):
    """Ends a job because another one failed or the run was interrupted."""


class Beside:
    """Runs jobs, at most `count` of them at a time; with 1 in the caller's thread and with all of
    PyTorch's threads.

    What a job computes may depend on whether `count` is 1 (results of a matrix product depend on
    the number of threads), but neither on how many jobs there are nor on which of them run at the
    same time. A job may run jobs of its own: these come on top of the `count`, and end with the
    others.

    With a remote executor jobs wait for what is done there: as many as it has slots run at the same
    time, each with the threads that it would have without.
    """

    def __init__(self, count: int, executor: Executor | None = None) -> None:
        self.count = count
        self.executor = executor if executor is not None and executor.remote else None
        if self.executor is not None:
            self.executor.check = self.check
        self._stop = threading.Event()
        self._lock, self._runs, self._jobs = threading.Lock(), 0, 0

    def run(self, jobs: Sequence[Callable[[], None]]) -> None:
        """Run all jobs, started in their order. The first exception ends the others at their next
        `check`, and is raised.
        """
        if self.count == 1 and self.executor is None:
            for job in jobs:
                job()
            return
        with self._lock:
            self._runs += 1
            self._jobs += len(jobs)
        # also when there is one job: it must not matter how many are left of an interrupted run
        each = torch.get_num_threads() if self.count == 1 else 1
        most = self.count if self.executor is None else max(self.count, self.executor.slots)
        pool = ThreadPoolExecutor(
            most, "beside", initializer=torch.set_num_threads, initargs=(each,)
        )
        try:
            with threads(each):
                futures = [pool.submit(job) for job in jobs]
                wait(futures, return_when=FIRST_EXCEPTION)
                if any(f.done() and f.exception() is not None for f in futures):
                    self._stop.set()
                    pool.shutdown(cancel_futures=True)
                errors = [f.exception() for f in futures if not f.cancelled()]
                for error in sorted(filter(None, errors), key=lambda e: isinstance(e, Stopped)):
                    raise error  # rather what stopped the others than that they were stopped
        except BaseException:
            self._stop.set()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
            with self._lock:
                self._runs -= 1
                self._jobs -= len(jobs)
                if self._runs == 0:
                    self._stop.clear()

    @property
    def several(self) -> bool:
        """Whether there are jobs beside one another."""
        return self._jobs > 1

    def check(self) -> None:
        """To be called now and then by a job."""
        if self._stop.is_set():
            raise Stopped
