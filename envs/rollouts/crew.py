"""The hosts of a rollout: worker processes, or this one."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from multiprocessing.connection import wait
from typing import Any

from alltrades.envs.rollouts.hosts import Command, LaneHost, Reply
from alltrades.envs.rollouts.workers import Worker, close_all
from alltrades.envs.spec import EnvSpec


class Crew:
    """The hosts of a rollout: worker processes, or with 0 workers this process.

    A crew that is kept (`with Crew(2) as crew: rollout(..., crew=crew)`) spares later rollouts the
    start of the processes and the building of environments. It works for one rollout at a time;
    others wait. A host that was sent commands is busy until it replied.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.lock = threading.RLock()
        self._local: LaneHost | None = None
        self._workers: list[Worker] = []
        self._pending: list[Command] = []
        self._busy = [False] * max(1, workers)

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
            worker.learn(specs, experts)
        while len(self._workers) < self.workers:
            self._workers.append(Worker(specs, experts))
            self._workers[
                -1
            ].start()  # in the list already: an interrupt here leaves no process behind

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
        return sorted({hosts[x] for x in wait(list(hosts))})

    def receive(self, host: int) -> list[Reply] | None:
        if self._local is not None:
            commands, self._pending = self._pending, []
            self._busy[0] = False
            return self._local.run(commands)
        replies = self._workers[host].receive()
        if replies is not None:
            self._busy[host] = False
        return replies

    def restart(self, host: int, cause: str) -> None:
        self._busy[host] = False
        self._workers[host].restart(cause)

    def close(self) -> None:
        """End the processes and close the environments; a later start begins anew."""
        if self._local is not None:
            self._local.close()
        close_all(self._workers)
        self._local, self._workers, self._pending = None, [], []
        self._busy = [False] * len(self._busy)
