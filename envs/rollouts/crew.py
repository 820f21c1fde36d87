"""The hosts of a rollout: worker processes, or this one."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping
from multiprocessing.connection import wait
from typing import Any

from alltrades.envs.rollouts.hosts import Command, LaneHost, Reply
from alltrades.envs.rollouts.workers import Worker, WorkerDied, close_all
from alltrades.envs.spec import EnvSpec
from alltrades.system.compute.executor import Executor

LOOK = 1.0  # seconds between two looks at what workers do, at most


class Crew:
    """The hosts of a rollout: worker processes, or with 0 workers this process.

    A crew that is kept (`with Crew(2) as crew: rollout(..., crew=crew)`) spares later rollouts the
    start of the processes and the building of environments. It works for one rollout at a time;
    others wait. A host that was sent commands is busy until it replied.

    Args:
        workers: number of processes.
        timeout: seconds that one reset or step may take, and a tenth of what building an
            environment may; its worker is killed then. 0: for ever. This process cannot be killed:
            with a timeout 0 workers are one.
        growth: bytes that a worker may grow by without a reason before another takes its place; 0:
            any number.
        executor: one that is remote carries rollouts out in place of processes of this machine.
    """

    def __init__(
        self,
        workers: int,
        timeout: float = 0.0,
        growth: float = 0.0,
        executor: Executor | None = None,
    ) -> None:
        self.workers = max(1, workers) if timeout else workers
        self.executor = executor if executor is not None and executor.remote else None
        self.timeout, self.growth = timeout, growth
        self.lock = threading.RLock()
        self._pause = min(LOOK, timeout / 8) if timeout else LOOK
        self._looked = 0.0
        self._renewed = False
        self._local: LaneHost | None = None
        self._workers: list[Worker] = []
        self._pending: list[Command] = []
        self._busy = [False] * max(1, self.workers)

    @property
    def hosts(self) -> int:
        """Processes that step environments at the same time, wherever they are; at least one."""
        return max(1, self.workers if self.executor is None else self.executor.slots)

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self, specs: Mapping[str, EnvSpec], experts: Mapping[str, Any]) -> None:
        """Make the hosts ready for these environments; those that run already learn what is new to
        them.
        """
        if self.workers == 0:
            self._local = self._local or LaneHost({}, {})
            self._local.learn(specs, experts)
        for worker in self._workers:
            if worker.closing:  # and may never end: it would not read what it is sent
                worker.renew()
            worker.learn(specs, experts)
        while len(self._workers) < self.workers:
            self._workers.append(Worker(specs, experts))
            self._workers[
                -1
            ].start()  # in the list already: an interrupt here leaves no process behind
        self._looked = time.monotonic()

    def __len__(self) -> int:
        return len(self._busy)

    def send(self, host: int, commands: list[Command]) -> None:
        if not commands:
            return
        self._busy[host] = True
        if self._local is not None:
            self._pending = commands
        else:
            self._workers[host].send(commands)

    def idle(self) -> list[int]:
        return [h for h, busy in enumerate(self._busy) if not busy]

    def wait(self) -> list[int]:
        """Hosts with something to say, or dead: all of those, so that one call of a policy serves
        them together.
        """
        if self._local is not None:
            return [0]
        hosts: dict[Any, int] = {}
        for h, worker in enumerate(self._workers):
            hosts[worker.pipe] = hosts[worker.process.sentinel] = h
        while True:
            found = wait(list(hosts), self._pause)
            self._look()
            if found:
                return sorted({hosts[x] for x in found})

    def _look(self) -> None:
        """See to workers that hang. A pause of this process, such as Ctrl-Z, counts for little:
        they may have been stopped with it.
        """
        passed = time.monotonic() - self._looked
        if passed < self._pause / 2:
            return
        self._looked += passed
        for worker in self._workers:
            worker.look(min(passed, 2 * self._pause), self.timeout)

    def receive(self, host: int) -> list[Reply] | None:
        if self._local is not None:
            commands, self._pending = self._pending, []
            self._busy[0] = False
            replies: list[Reply] | None = self._local.run(commands)
            self._local.tidy()
            return replies
        replies = self._workers[host].receive()
        if replies is not None:
            self._busy[host] = False
        return replies

    def restart(self, host: int, death: WorkerDied) -> None:
        self._busy[host] = False
        self._workers[host].restart(death.cause)

    def grown(self, host: int) -> bool:
        """Whether another worker should take its place, once no episode runs there."""
        return bool(self.growth and self._workers and self._workers[host].growth > self.growth)

    def renew(self, host: int) -> None:
        """Put another worker in the place of one that has grown."""
        if not self._renewed:
            self._renewed = True
            print(
                f"a rollout worker had grown by {self._workers[host].growth / 2**30:.2f} GiB and "
                "was replaced by a new one, as the next will be: an environment may leak memory "
                "(--rollout.growth sets the bound)",
                file=sys.stderr,
            )
        self._workers[host].renew()

    def close(self) -> None:
        """End the processes and close the environments; a later start begins anew."""
        if self._local is not None:
            self._local.close()
        close_all(self._workers)
        self._local, self._workers, self._pending = None, [], []
        self._busy = [False] * len(self._busy)
