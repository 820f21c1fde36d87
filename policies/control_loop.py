"""The loop of a robot: observe, ask the controller, guard, act, at a fixed rate; whatever the sensors do."""

from __future__ import annotations

import logging
import time
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from alltrades.data.episode import Episode
from alltrades.data.errors import UserError
from alltrades.envs.robots.robot import Outcome, Reading, Robot
from alltrades.policies.guard import ActionGuard
from alltrades.policies.ticker import Ticker

log = logging.getLogger(__name__)

HALT_SECONDS = 2.0  # longest way to the stop action along the limits


class Acting(Protocol):
    """What decides: `Controller` with one lane, or anything with its `reset` and `act`."""

    def reset(self, *, environment: str | None = None, seed: int | None = None) -> None: ...

    def act(self, observation: np.ndarray) -> np.ndarray: ...


class Feed:
    """Tells new observations from missing, repeated, late and unreadable ones, and counts each kind.

    An observation with a stamp is new when its stamp is above the last one's, late when it is below. Without one it is
    new unless it is the same array object with the same values: a robot at rest may send equal values for long.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.reset()

    def reset(self) -> None:
        """Forget the last observation; stamps may start anew."""
        self._stamp: float | None = None
        self._last: Any = None
        self._values: np.ndarray | None = None

    def take(self, given: np.ndarray | Reading | None) -> np.ndarray | None:
        """What a robot's `observe` gave -> a new observation (obs_dim,) float32, or None."""
        kind, values = self._judge(given)
        self.counts[kind] += 1
        return values if kind == "new" else None

    def _judge(self, given: Any) -> tuple[str, np.ndarray | None]:
        if given is None:
            return "missing", None
        stamp = given.stamp if isinstance(given, Reading) else None
        source = given.observation if isinstance(given, Reading) else given
        try:
            values = np.array(source, dtype=np.float32)  # a copy: the robot may reuse its buffer
        except (TypeError, ValueError) as error:
            raise UserError(f"the robot's observation is a {type(source).__name__} that is no array ({error}); expected numbers "
                            "of shape (obs_dim,)") from error
        if not np.isfinite(values).all() or (stamp is not None and stamp != stamp):
            return "unreadable", None
        if stamp is not None and self._stamp is not None and stamp <= self._stamp:
            return ("repeated" if stamp == self._stamp else "late"), None
        same = self._values is not None and source is self._last and np.array_equal(values, self._values)
        self._stamp, self._last, self._values = stamp, source, values
        return ("repeated", None) if stamp is None and same else ("new", values)


class ControlLoop:
    """Runs episodes of one robot.

    A tick observes, asks the controller, and sends the action through the guard. Where no new observation is there, the
    last action is sent again, and the controller is not asked. Every end, an exception too, brings the robot to its stop
    action along the guard's limits (or leaves it holding its last action, where it has none).

    Args:
        robot, controller: see `Robot` and `Acting`.
        guard: the last word on every action, whatever the controller let pass.
        rate: control steps per second, or None for as fast as possible.
        timeout: seconds without a new observation after which the episode is ended.
        stop_action: (A,) what brings the robot to rest, None for a dimension that keeps its last value; None for nothing.
        clock, sleep: seconds, monotonic.
    """

    def __init__(self, robot: Robot, controller: Acting, guard: ActionGuard, rate: float | None, timeout: float = 1.0,
                 stop_action: Sequence[float | None] | None = None, clock: Callable[[], float] = time.perf_counter,
                 sleep: Callable[[float], object] = time.sleep) -> None:
        self.robot, self.controller, self.guard, self.timeout = robot, controller, guard, timeout
        self.ticker, self.feed = Ticker(rate, clock, sleep), Feed()
        self.latencies = array("d")  # seconds from an observation to its action, of all episodes
        self.held = 0  # ticks at which the last action was sent again
        self.seconds = 0.0  # of all episodes
        self.first_action_at: float | None = None  # time.time()
        self._clock = clock
        self._stop = None if stop_action is None else np.array([np.nan if v is None else v for v in stop_action], np.float32)
        self._refused = self._refusals()
        self._begin("", 0)

    # ---- what it does --------------------------------------------------------------------------------------------
    def run(self, environment: str, seed: int, steps: int | None = None, stop: Callable[[], bool] = lambda: False,
            each: Callable[[ControlLoop], None] | None = None) -> str:
        """One episode; why it ended: "success", "over" (the robot says so), "steps", "stopped", "timeout"
        (no observation) or "starved" (the controller stopped for want of actions).

        Args:
            environment, seed: of the controller's episode; the robot's starts from the seed too.
            steps: most actions, without held ones.
            stop: asked at every tick.
            each: called at every tick, in the time that is left.

        What the robot, the controller or `each` raises is passed on, after the robot was stopped.
        """
        self._begin(environment, seed)
        try:
            reset = getattr(self.robot, "reset", None)
            if reset is not None:
                reset(seed)
            self.controller.reset(environment=environment, seed=seed)
            begun = self._clock()
            try:
                end = self._ticks(steps, stop, each)
            finally:
                self.seconds += self._clock() - begun
        except BaseException:
            self._halt(failed=True)
            raise
        self._halt()
        return end

    def _begin(self, environment: str, seed: int) -> None:
        self.environment, self.seed = environment, seed
        self.feed.reset()
        self._observations: list[np.ndarray] = []
        self._actions: list[np.ndarray] = []
        self._outcomes: list[Outcome] = []
        self._sent: np.ndarray | None = None  # last two actions, (1 or 2, A)

    def _ticks(self, steps: int | None, stop: Callable[[], bool], each: Callable[[ControlLoop], None] | None) -> str:
        self.ticker.start()
        seen = self._clock()
        while not stop():
            observation = self.feed.take(self.robot.observe())
            arrived = self._clock()
            done = self._look()
            if done is not None:
                return done
            if steps is not None and self.steps >= steps:
                return "steps"
            if observation is not None:
                self._answer(observation)
                seen = self._clock()
                self.latencies.append(seen - arrived)
                if np.any(getattr(self.controller, "stopped", False)):
                    return "starved"
            elif arrived - seen > self.timeout:
                return "timeout"
            elif self._sent is not None:
                self._send(self._sent[-1])
                self.held += 1
            if each is not None:
                each(self)
            self.ticker.wait()
        return "stopped"

    def _look(self) -> str | None:
        """Note what the last action led to, where the robot can tell; why the episode is over, or None."""
        ask = getattr(self.robot, "outcome", None)
        if ask is None or not self._outcomes:
            return None
        found = Outcome(*ask())
        if not np.isfinite(found.reward):
            raise UserError(f"the robot's outcome has the reward {found.reward}; expected a finite number")
        self._outcomes[-1] = found._replace(success=found.success or self._outcomes[-1].success)
        if not found.done:
            return None
        return "success" if any(o.success for o in self._outcomes) else "over"

    def _answer(self, observation: np.ndarray) -> None:
        size = self.guard.action_dim
        action = self._send(np.asarray(self.controller.act(observation), dtype=np.float32).reshape(-1)[:size])
        if self.first_action_at is None:
            self.first_action_at = time.time()
        self._observations.append(observation)
        self._actions.append(action)
        self._outcomes.append(Outcome())

    def _send(self, wanted: np.ndarray) -> np.ndarray:
        action = self.guard(wanted[None], self._sent)[0]
        self.robot.act(action.copy())
        self._sent = action[None] if self._sent is None else np.stack([self._sent[-1], action])
        return action

    def _halt(self, failed: bool = False) -> None:
        if self._stop is None or self._sent is None:
            return
        rest, refused = np.where(np.isnan(self._stop), self._sent[-1], self._stop), dict(self.guard.refusals)
        try:
            self.ticker.start()
            for _ in range(int(HALT_SECONDS / (self.ticker.period or HALT_SECONDS))):
                if np.array_equal(self._send(rest), rest):
                    return
                self.ticker.wait()
            self.robot.act(rest)
        except Exception:
            if not failed:
                raise
            log.exception("the robot could not be stopped")  # what failed first is raised by the caller
        finally:  # the way to rest is no fault of the policy
            for reason, count in self.guard.refusals.items():
                self._refused[reason] += count - refused[reason]

    # ---- what came of it -----------------------------------------------------------------------------------------
    @property
    def steps(self) -> int:
        """Actions of this episode, without held ones."""
        return len(self._actions)

    @property
    def refusals(self) -> dict[str, int]:
        """Actions replaced by the controller's guard or by this loop's, by reason, since the loop was made."""
        return {reason: count - self._refused.get(reason, 0) for reason, count in self._refusals().items()}

    def _refusals(self) -> dict[str, int]:
        own, inner = self.guard.refusals, getattr(self.controller, "refusals", {})
        return {reason: own.get(reason, 0) + inner.get(reason, 0) for reason in own | inner}

    def recorded(self, source: str) -> Episode | None:
        """The episode so far, or None before the first action: observations that were answered and what was executed."""
        if not self._actions:
            return None
        successes = np.array([o.success for o in self._outcomes])
        first = int(np.argmax(successes)) + 1 if successes.any() else -1
        rewards = np.array([o.reward for o in self._outcomes], dtype=np.float32)
        return Episode({"observation": np.stack(self._observations)}, np.stack(self._actions), rewards, successes,
                       self.environment, source, self.seed, first > 0, first, float(rewards.sum(dtype=np.float64)))
