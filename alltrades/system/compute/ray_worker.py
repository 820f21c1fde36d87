"""The worker of a Ray cluster: a process that carries out one task after another.

It holds what tasks keep, such as environments and policies, as long as it lives.
"""

from __future__ import annotations

import os
import pickle
import platform
import sys
import threading
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from alltrades.system.compute.executor import Here, Kept
from alltrades.system.compute.news import LINE, RECORD, TOLD, caught
from alltrades.system.reporting import Report

PACKAGES = ("alltrades", "torch", "numpy", "scipy", "scikit-learn", "mujoco", "gymnasium")
SHARED = 4  # objects that tasks share and that stay unpacked


def versions() -> dict[str, str]:
    """What bits may depend on, by name; packages that are not installed are left out."""
    found = {"Python": ".".join(platform.python_version_tuple()[:2])}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


class RayWorker:
    """Made an actor by `RayExecutor`, with one thread for tasks and one for what is asked of it
    meanwhile.

    Args:
        prepare: called first; it loads plugins, which what is sent later refers to.
        environment: environment variables to set where they are not.
    """

    def __init__(self, prepare: bytes, environment: Mapping[str, str]) -> None:
        settle(environment)
        self._kept = Kept()
        self._lock = threading.Lock()
        self._news: list[tuple[int, Any]] = []  # from number `_first` on
        self._first = 0
        self._done: tuple[int, int] | None = None
        self._task = -1
        self._failed = caught(lambda: pickle.loads(prepare)())

    def hello(self) -> tuple[str, Any]:
        """("ready", (node, versions)), or ("failed", (exception, its traceback)) of `prepare`."""
        if self._failed is not None:
            return "failed", self._failed
        import ray

        return "ready", (ray.get_runtime_context().get_node_id(), versions())

    def run(self, task: int, work: bytes, shared: list[Any]) -> tuple[str, bytes]:
        """Carry a task out: ("done", what it returns) or ("failed", (exception, its traceback)),
        pickled.

        Args:
            work: (function, item), pickled.
            shared: a reference to the pickled rest, and its name.
        """
        with self._lock:
            self._news, self._first, self._done, self._task = [], 0, None, task

        def call() -> None:
            function, item = pickle.loads(work)
            here = Here(
                self._kept,
                Report(self._progress, lambda *record: self._add(RECORD, record)),
                lambda line: self._add(LINE, line),
                lambda value: self._add(TOLD, value),
            )
            found.append(function(here, self._shared(*shared), item))

        found: list[Any] = []
        failed = caught(call)
        return ("failed", pickle.dumps(failed)) if failed else ("done", _dumps(found[0]))

    def news(self, task: int, since: int) -> tuple[list[tuple[int, Any]], tuple[int, int] | None]:
        """What a task recorded, said and told, from number `since` on, and how far it
        is; what comes before that is forgotten."""
        with self._lock:
            if task != self._task:
                return [], None
            del self._news[: since - self._first]
            self._first = since
            return list(self._news), self._done

    def _shared(self, reference: Any, name: int) -> Any:
        import ray

        return self._kept.get("shared", name, lambda: pickle.loads(ray.get(reference)), SHARED)

    def _progress(self, done: int, total: int) -> None:
        self._done = done, total

    def _add(self, kind: int, value: Any) -> None:
        with self._lock:
            self._news.append((kind, value))


def _dumps(value: Any) -> bytes:
    from ray import cloudpickle

    found: bytes = cloudpickle.dumps(value)
    return found


def settle(environment: Mapping[str, str]) -> None:
    """Make a process of Ray's one in which tasks find what they need.

    Args:
        environment: environment variables to set where they are not.
    """
    # processes that are spawned here import the main script, which is Ray's own
    vars(sys.modules["__main__"]).pop("__file__", None)
    for name, value in environment.items():
        os.environ.setdefault(name, value)
