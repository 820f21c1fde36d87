"""A simulated robot that does not wait: its physics follow the wall clock in a thread of
their own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np

from alltrades.envs.robots.plants import Plant
from alltrades.envs.robots.robot import Outcome, Reading, Robot
from alltrades.envs.success import either

ROUNDING = 1e-6  # of a physics step


class RealTimeRobot(Robot):
    """Moves on with its last action while the policy computes: an action that comes late is
    executed late.

    An episode begins at `reset`, in the state of the seed and with the stop action (or, where some
    dimension has none, the model's own initial command) until the first one comes. It succeeds when
    the plant says so at any control step of its own, whether or not the robot is observed then.

    Args:
        plant: the physics.
        clock: seconds, monotonic.
        threaded: step in a thread; else time passes only inside the calls of this object, with the
            same result.
    """

    def __init__(
        self, plant: Plant, clock: Callable[[], float] = time.perf_counter, threaded: bool = True
    ) -> None:
        self.plant, self.limits = plant, plant.limits
        self.environment, self.control_hz = plant.environment, plant.control_hz
        self._clock, self._threaded = clock, threaded
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._action: np.ndarray | None = None
        self._origin = 0.0  # when the episode began
        self._steps = 0  # physics steps since then
        self._held = 0  # of them since the last command
        self._success: bool | None = None

    def reset(self, seed: int) -> None:
        with self._lock:
            self.plant.reset(seed)
            stop = self.limits.stop
            self._steps, self._held, self._success, self._action = 0, 0, None, None
            if stop is not None and None not in stop:
                self._command(np.asarray(stop, dtype=np.float32))
            self._origin = self._clock()
        if self._threaded and self._thread is None:
            self._thread = threading.Thread(target=self._follow, name="physics", daemon=True)
            self._thread.start()

    def observe(self) -> Reading:
        with self._lock:
            self._advance()
            return Reading(self.plant.look()[0], self._steps)

    def act(self, action: np.ndarray) -> None:
        with self._lock:
            self._advance()
            self._command(np.array(action, dtype=np.float32))

    def outcome(self) -> Outcome:
        with self._lock:
            self._advance()
            found = self.plant.look()[1]
            success = either(self._success, found.success)
            late = self.plant.max_steps is not None and self._steps >= self.plant.max_steps
            return Outcome(found.reward, success, bool(success) or late)

    def picture(self) -> np.ndarray | None:
        with self._lock:
            return self.plant.picture()

    def close(self) -> None:
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.plant.close()

    def _follow(self) -> None:
        while not self._closing.wait(self.plant.timestep):
            with self._lock:
                self._advance()

    def _command(self, action: np.ndarray) -> None:
        self._action, self._held = action, 0
        self.plant.command(action)

    def _advance(self) -> None:
        """Let the physics catch up with the clock; called with the lock held."""
        due = int((self._clock() - self._origin) / self.plant.timestep + ROUNDING)
        while self._steps < due:
            count = min(due - self._steps, self.plant.substeps - self._held)
            self.plant.advance(count)
            self._steps += count
            self._held += count
            if self._held == self.plant.substeps:
                self._success = either(self._success, self.plant.look()[1].success)
                self._held = 0
                if self._action is not None:
                    self.plant.command(self._action)
