"""The connection to a Ray cluster and its workers: started as needed, replaced as they die."""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alltrades.errors import MissingExtra, UserError
from alltrades.system.compute.news import told
from alltrades.system.compute.ray_worker import RayWorker, versions
from alltrades.system.machine import processors

RAY, ADDRESS = "ray", "ray://"  # what `compute.on` may be
CENSUS = 5.0  # seconds between two looks at what the cluster has
STARTS = 3  # workers in a row that may end while they start
OTHER = "When connecting to an existing cluster"  # as Ray refuses to start one beside it
PASSED_ON = ("MUJOCO_GL", "PYOPENGL_PLATFORM", "WANDB_MODE")  # environment variables


def require_ray() -> Any:
    """The module. Raises MissingExtra where it is not installed."""
    try:
        import ray
    except ImportError as error:
        raise MissingExtra(f"compute.on = {RAY} needs the package ray", "ray") from error
    return ray


class Cluster:
    """A connection of this process: to the cluster of an address, to the one that this machine
    belongs to, or to one that is started here and ends with the connection.

    Raises UserError where the address does not answer, and where it refuses this user's token.
    """

    def __init__(self, on: str, say: Callable[[str], None]) -> None:
        if on != RAY and _has_token():  # which Ray's client does not look for, as others do
            os.environ.setdefault("RAY_AUTH_MODE", "token")
        self.ray = require_ray()
        self._mine = not self.ray.is_initialized()
        if not self._mine:
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        quiet = {"logging_level": "ERROR", "log_to_driver": True}
        if on == RAY and self._started(quiet, say):
            return
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what an error says below
                self.ray.init(address=None if on == RAY else on, **quiet)
        except Exception as error:  # many kinds, by what is wrong with an address
            raise UserError(
                f"compute.on = {on}: no Ray cluster answers there "
                f"({' '.join(str(error).split())[:160]}); expected the address of a cluster "
                "whose token this user has, with the same versions of Ray and Python; see "
                "`ray status`, and forget one that is gone with `ray stop`"
            ) from error

    def _started(self, quiet: dict[str, Any], say: Callable[[str], None]) -> bool:
        """Whether a cluster was started here: not where this machine belongs to one, by
        RAY_ADDRESS or `ray start`. One that another process has for itself does not count: it ends
        with that process.
        """
        try:
            self.ray.init(num_cpus=processors(), include_dashboard=False, **quiet)
        except ValueError as error:
            if OTHER not in str(error):
                raise
            return False
        say(f"compute: no Ray cluster runs here; one was started, {processors()} processors")
        return True

    def close(self) -> None:
        """Disconnect; a cluster that was started here ends."""
        if self._mine:
            self.ray.shutdown()


def _has_token() -> bool:
    """Whether this user has a token, where Ray looks for it."""
    given = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys()
    return bool(given) or (Path.home() / ".ray" / "auth_token").is_file()


@dataclass
class Member:
    """One worker: its actor, and the node that it is on."""

    actor: Any
    node: str = ""


class Pool:
    """Workers of a cluster, each a Ray actor, for the threads of this process.

    Args:
        prepare: called in each before its first task, such as to load plugins.
        most: workers at the same time; None: as many as the cluster has room for.
        processors, gpus: of each.

    Attributes:
        needs: resources of each, as Ray calls them. given: what each is begun with.
    """

    def __init__(
        self,
        cluster: Cluster,
        prepare: Callable[[], None],
        most: int | None,
        processors: float,
        gpus: float,
    ) -> None:
        self.ray, self._most = cluster.ray, most
        self.needs = {"CPU": processors, "GPU": gpus}
        variables = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        self.given = self.ray.cloudpickle.dumps(prepare), variables
        options: dict[str, Any] = {"num_cpus": processors, "num_gpus": gpus, "max_restarts": 0}
        self._class = self.ray.remote(
            scheduling_strategy="SPREAD", concurrency_groups={"news": 1}, **options
        )(_with_news(self.ray))
        self._lock = threading.Lock()
        self._idle: list[Member] = []
        self._busy: list[Member] = []
        self._starting: dict[Any, Member] = {}  # by what their greeting will be
        self._failed_starts = 0
        self._looked, self._room = float("-inf"), 0

    # ---- workers ---------------------------------------------------------------------------------
    def take(self, wanted: int) -> Member | None:
        """A worker that has nothing to do, or None; so many as are `wanted` are started, where the
        cluster has room.

        Raises UserError where workers cannot start, and where theirs are other versions.
        """
        with self._lock:
            self._greet()
            if self._idle:
                self._busy.append(self._idle.pop())
                return self._busy[-1]
            there = len(self._busy) + len(self._starting)
            for _ in range(min(wanted - len(self._starting), self.room() - there)):
                actor = self._class.remote(*self.given)
                self._starting[actor.hello.remote()] = Member(actor)
            return None

    def give_back(self, member: Member) -> None:
        """It has done its task."""
        with self._lock:
            self._busy.remove(member)
            self._idle.append(member)

    def drop(self, member: Member) -> None:
        """It died, or what it does is of no use any more."""
        with self._lock:
            self._busy.remove(member)
        self._end(member)

    def rest(self) -> None:
        """End workers that have nothing to do: others of the cluster get their room."""
        with self._lock:
            idle, self._idle = self._idle, []
        for member in idle:
            self._end(member)

    def room(self) -> int:
        """Workers that there may be: as many as there are seats, at most those asked for."""
        return self.seats() if self._most is None else min(self.seats(), self._most)

    def seats(self) -> int:
        """Workers that the nodes of the cluster have room for, whoever uses it."""
        now = time.monotonic()
        if now - self._looked > CENSUS:
            self._looked = now
            self._room = sum(self._fits(node["Resources"]) for node in self._alive())
        return self._room

    def nodes(self) -> set[str]:
        """Nodes that are there, as far as the cluster knows."""
        return {node["NodeID"] for node in self._alive()}

    def close(self) -> None:
        """End all workers."""
        with self._lock:
            members = [*self._idle, *self._busy, *self._starting.values()]
            self._idle, self._busy, self._starting = [], [], {}
        for member in members:
            self._end(member)

    def _greet(self) -> None:
        """Take in workers that have started."""
        if not self._starting:
            return
        ready, _ = self.ray.wait(list(self._starting), num_returns=len(self._starting), timeout=0)
        for reference in ready:
            member = self._starting.pop(reference)
            try:
                kind, found = self.ray.get(reference)
            except self.ray.exceptions.RayError as error:
                self._end(member)
                self._not_started(error)
                continue
            if kind == "failed":
                self._end(member)
                raise told(*found)
            member.node, theirs = found
            _check_versions(member.node, theirs)
            self._failed_starts = 0
            self._idle.append(member)

    def _not_started(self, error: Exception) -> None:
        """A worker died before it was ready: with its node, or because it cannot run there."""
        self._failed_starts += 1
        if self._failed_starts >= STARTS:
            cause = str(error).strip().splitlines()[-1].strip() or type(error).__name__
            raise UserError(
                f"compute: workers of the cluster cannot start, {STARTS} times in a row: "
                f"{cause[:200]}; expected alltrades, with the same packages, on every node; "
                "install it there"
            ) from error

    def _end(self, member: Member) -> None:
        try:
            self.ray.kill(member.actor)
        except Exception:  # it, or the cluster, is gone
            pass

    def _alive(self) -> list[dict[str, Any]]:
        return [node for node in self.ray.nodes() if node["Alive"]]

    def _fits(self, resources: dict[str, float]) -> int:
        shares = [resources.get(k, 0.0) / need for k, need in self.needs.items() if need]
        return int(min(shares) + 1e-9)


def _with_news(ray: Any) -> type[RayWorker]:
    """The worker as Ray is to see it: what is asked of it meanwhile has a thread of its own."""

    class Worker(RayWorker):
        news = ray.method(concurrency_group="news")(RayWorker.news)

    Worker.__name__ = Worker.__qualname__ = "alltrades"
    return Worker


def _check_versions(node: str, theirs: dict[str, str]) -> None:
    """Raises UserError where a node has other versions than this process."""
    mine = versions()
    for name in mine:
        if theirs.get(name) != mine[name]:
            raise UserError(
                f"compute: node {node[:8]} of the cluster has {name} "
                f"{theirs.get(name, '(not installed)')}; expected {mine[name]}, as here: results "
                "would be others; install the same on every node"
            )
