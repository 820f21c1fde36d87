"""Tasks on a Ray cluster.

Workers are actors; what tasks share goes through Ray's object store, once. A worker that dies, with
its node or alone, costs the task that it carried out, which is carried out again.
"""

from __future__ import annotations

import itertools
import pickle
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from alltrades.errors import MissingExtra, UserError
from alltrades.system.compute.executor import Ears, Executor, Function, say_on_stderr
from alltrades.system.compute.news import PROGRESS, heard, told
from alltrades.system.compute.ray_group import GroupTask, together
from alltrades.system.compute.ray_pool import Cluster, Member, Pool, require_ray

AHEAD = 2  # times the slots: tasks whose results may wait for one before them
PAUSE = 0.1  # seconds that are waited for news at most
ASK = 0.25  # seconds between two questions to a worker how far it is
DEATHS = 3  # workers, on nodes that are there, that one task may end
PATIENCE = 20.0  # seconds without any worker after which it is said

_names = itertools.count()  # of what tasks share, and of tasks, in this process


@dataclass
class _Task:
    """An item and what has become of it.

    Attributes:
        ended: nodes of the workers that died over it. logged: last step of each record.
    """

    number: int
    item: Any
    ended: list[str] = field(default_factory=list)
    logged: dict[str, int] = field(default_factory=dict)


@dataclass
class _Running:
    """A task on a worker.

    Attributes:
        name: of this try. heard: news of it. asked: the question that is open, or None.
    """

    task: _Task
    member: Member
    name: int
    result: Any
    heard: int = 0
    asked: Any = None
    at: float = 0.0


class RayExecutor(Executor):
    """Carries tasks out on a cluster.

    Args:
        on: "ray" or "ray://ADDRESS".
        prepare: see `Pool`.
        tasks, processors, gpus: at the same time, and of each.
        ranks: processes of one training, each with what a task is given.
        others: what those do that are not the first.

    Raises MissingExtra without Ray, and UserError as `Cluster`.
    """

    remote = True

    def __init__(
        self,
        on: str,
        prepare: Callable[[], None],
        tasks: int | None = None,
        processors: float = 1.0,
        gpus: float = 0.0,
        ranks: int = 1,
        others: Callable[[], None] | None = None,
        say: Callable[[str], None] = say_on_stderr,
    ) -> None:
        if ranks > 1:
            _require_train()
        self.ranks, self._others = ranks, others
        self._cluster = Cluster(on, say)
        self._pool = Pool(self._cluster, prepare, tasks, processors, gpus)

    @property
    def slots(self) -> int:  # type: ignore[override]
        """Workers that the cluster has room for now, at least one."""
        return max(1, self._pool.room())

    def map(
        self, function: Function, items: Iterable[Any], shared: Any = None, ears: Ears | None = None
    ) -> Generator[Any, None, None]:
        yield from _Map(self, function, shared, ears or Ears()).run(iter(items))

    def together(self, function: Function, item: Any, ears: Ears | None = None) -> Any:
        assert self._others is not None
        if self._pool.seats() < self.ranks:
            raise UserError(
                f"compute.ranks = {self.ranks} and the cluster has room for {self._pool.seats()} "
                "processes of compute.cpus_per_task and compute.gpus_per_task; expected as many; "
                "lower it"
            )
        work = function, self._others, item
        task = GroupTask(work, self.ranks, ears or Ears(), self.check)
        return together(self._cluster, self._pool, task)

    def close(self) -> None:
        self._pool.close()
        self._cluster.close()


def _require_train() -> None:
    """Raises MissingExtra without what Ray Train needs."""
    require_ray()
    try:
        import ray.train.torch  # noqa: F401
    except ImportError as error:
        raise MissingExtra("compute.ranks > 1 needs Ray Train", "ray") from error


class _Map:
    """One call of `map`."""

    def __init__(self, executor: RayExecutor, function: Function, shared: Any, ears: Ears) -> None:
        self.executor, self.pool, self.ray = executor, executor._pool, executor._cluster.ray
        self.function, self.shared, self.ears = function, shared, ears
        self._given: list[Any] = []  # reference to what is shared, and its name
        self._waiting: deque[_Task] = deque()
        self._running: list[_Running] = []
        self._results: dict[int, tuple[str, Any]] = {}
        self._silent = time.monotonic()  # since when no worker was seen

    def run(self, items: Iterator[Any]) -> Generator[Any, None, None]:
        read, handed, ended = 0, 0, False
        try:
            while True:
                while not ended and read < handed + AHEAD * self.executor.slots:
                    item = next(items, self)
                    ended = item is self
                    if not ended:
                        self._waiting.append(_Task(read, item))
                        read += 1
                while handed in self._results:
                    kind, value = self._results.pop(handed)
                    if kind == "failed":
                        raise told(*value)
                    handed += 1
                    yield value
                if ended and handed == read:
                    return
                self.executor.check()
                self._start()
                self._listen()
        finally:
            for running in self._running:  # nobody waits for them any more
                self.pool.drop(running.member)

    def _start(self) -> None:
        """Give waiting tasks to workers."""
        while self._waiting:
            member = self.pool.take(len(self._waiting))
            if member is None:
                self._complain()
                return
            task = self._waiting.popleft()
            if not self._given:
                data = self.ray.cloudpickle.dumps(self.shared)
                self._given = [self.ray.put(data), next(_names)]
            work = self.ray.cloudpickle.dumps((self.function, task.item))
            name = next(_names)
            result = member.actor.run.remote(name, work, self._given)
            self._running.append(_Running(task, member, name, result, at=time.monotonic()))

    def _complain(self) -> None:
        """Say it where there is no worker for long."""
        now = time.monotonic()
        if self._running:
            self._silent = now
        elif now - self._silent > PATIENCE:
            self._silent = float("inf")
            self.ears.say(
                "compute: no node of the Ray cluster has room for a worker of "
                "compute.cpus_per_task and compute.gpus_per_task; waiting for one (`ray status`)"
            )

    def _listen(self) -> None:
        """Wait for something to happen, and see to it."""
        if not self._running:
            time.sleep(PAUSE)
            return
        now, pause = time.monotonic(), max(ASK, len(self._running) / 200)
        for running in self._running:
            if running.asked is None and now - running.at >= pause:
                running.asked = running.member.actor.news.remote(running.name, running.heard)
        waited = {r.result: r for r in self._running}
        waited |= {r.asked: r for r in self._running if r.asked is not None}
        ready, _ = self.ray.wait(list(waited), num_returns=1, timeout=PAUSE)
        if ready:  # and whatever else is there by now
            ready, _ = self.ray.wait(list(waited), num_returns=len(waited), timeout=0)
        for reference in ready:
            running = waited[reference]
            if running not in self._running:
                continue
            try:
                if reference is running.asked:
                    self._hear(running, self.ray.get(reference))
                else:
                    self._finish(running, *self.ray.get(reference))
            except self.ray.exceptions.RayTaskError:
                raise
            except self.ray.exceptions.RayError as error:
                self._lost(running, error)

    def _hear(self, running: _Running, news: tuple[list[Any], tuple[int, int] | None]) -> None:
        found, done = news
        task = running.task
        running.heard += len(found)
        running.asked, running.at = None, time.monotonic()
        for kind, value in found:
            heard(self.ears, task.number, task.logged, kind, value)
        if done is not None:
            heard(self.ears, task.number, task.logged, PROGRESS, done)

    def _finish(self, running: _Running, kind: str, value: bytes) -> None:
        rest = running.member.actor.news.remote(running.name, running.heard)
        self._hear(running, self.ray.get(rest))
        self._running.remove(running)
        self.pool.give_back(running.member)
        self._results[running.task.number] = kind, pickle.loads(value)

    def _lost(self, running: _Running, error: Exception) -> None:
        """A worker died, or the node that had a result: its task waits again."""
        self._running.remove(running)
        self.pool.drop(running.member)
        task, nodes = running.task, self.pool.nodes()
        task.ended.append(running.member.node)
        cause = (str(error).strip().splitlines() or [type(error).__name__])[0].strip()
        # a node is known to be gone some seconds after its workers are: those before count then
        if sum(node in nodes for node in task.ended) >= DEATHS:
            raise UserError(
                f"compute: one task ended {DEATHS} workers of the cluster ({cause[:200]}); "
                "expected it to end well, as it may where a node has more memory; try it with "
                "--compute local"
            )
        self.ears.say(
            f"compute: a worker on node {running.member.node[:8]} of the cluster died "
            f"({cause[:120]}); its task runs again"
        )
        self._waiting.appendleft(task)
