"""Environments that fail in some of their episodes; module level: workers import them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tests.envs.rollout_toys import COUNTER, Counter, spec


def trouble(what: str) -> None:
    """What can go wrong in a step, a reset, or wherever it is called."""
    if what == "raise":
        raise OSError("the license\nhas expired")
    if what == "exit":
        sys.exit("no display")
    if what == "hang":
        time.sleep(1e6)
    if what == "busy":  # holds the interpreter's lock, as a simulator's endless loop may
        (1 << 62) % 7 and sum(range(10**12))
    if what == "quit":
        os._exit(3)
    if what == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)


def hanging_expert(observation: Any) -> np.ndarray:
    """Never answers."""
    trouble("hang")
    return np.zeros(2)


class Troubled(Counter):
    """Goes wrong in step 3 of the seeds that `when` names, {seed: what}; `at` names other places:
    "reset", "build" or "close" (there whenever an episode went wrong).
    """

    def __init__(self, when: dict[int, str], at: str = "step", closing: str = "") -> None:
        super().__init__()
        self.when, self.at, self.closing = when, at, closing
        self.broken = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict]:
        assert not self.broken, "reset after it went wrong"
        if self.at == "reset" and seed in self.when:
            trouble(self.when[seed])
        return super().reset(seed=seed)

    def trouble(self) -> None:
        if self.at == "step" and self.t == 3 and self.seed in self.when:
            self.broken = True
            trouble(self.when[self.seed])

    def close(self) -> None:
        if self.broken:
            trouble(self.closing)


def troubled(when: dict[int, str], name: str = COUNTER.id, **options: Any) -> Any:
    return spec(partial(Troubled, when, **options), name)


class SlowToBuild(Counter):
    """Takes `seconds` to build."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        time.sleep(seconds)


class Leaking(Counter):
    """Keeps 8 MiB of every episode, and notes its process in `folder`."""

    kept: list[np.ndarray] = []

    def __init__(self, folder: Path) -> None:
        super().__init__()
        (folder / str(os.getpid())).touch()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict]:
        self.kept.append(np.ones(2**20))
        return super().reset(seed=seed)


class Spawning(Counter):
    """Starts a process of its own, then hangs in step 2; notes both processes in `folder`."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def trouble(self) -> None:
        if self.t == 2:
            child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(1e6)"])
            for pid in (os.getpid(), child.pid):
                (self.folder / str(pid)).touch()
            trouble("busy")
