"""The loop of a robot: observe, ask the controller, guard, act, at a fixed rate; whatever sensors
and policy do.
"""

from __future__ import annotations

import logging
import time
from array import array
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from typing import Any

import numpy as np

from alltrades.data.actions import few
from alltrades.data.episode import Episode, from_first, succeeded
from alltrades.data.fields import Observation
from alltrades.data.interface import Interface
from alltrades.envs.boundary.contract import BrokenContract
from alltrades.envs.robots.robot import Outcome, Robot
from alltrades.envs.success import either, true_or_false
from alltrades.errors import UserError
from alltrades.policies.control.background import BackgroundThread
from alltrades.policies.control.controller import RobotController
from alltrades.policies.control.guard import ActionGuard
from alltrades.policies.control.stopping import at_rest, start_at_rest, step_to_rest, steps_to_rest
from alltrades.robots.feed import Feed
from alltrades.robots.refusals import Refusals
from alltrades.robots.ticker import Ticker

log = logging.getLogger(__name__)

ATTEMPTS = 10  # control steps for which a robot may refuse its stop action, before it is given up
POLL = 0.1  # seconds between two questions whether to stop, where no rate says when


class ControlLoop:
    """Runs episodes of one robot.

    A tick observes, asks the controller, and sends the action through the guard. Where no new
    observation is there, or the controller is not done, the last action is sent again; `timeout`
    seconds after the last fresh action the episode ends, and an action that comes later is not
    executed. While the operator of a server holds the robots, this one goes to rest and stays
    there; that time is not recorded. Every end, an exception too, brings the robot to its stop
    action along the guard's limits.

    This loop's guard has the last word on every action. A controller has one of its own, which
    cannot do without: it keeps the limits within a chunk, so that what a policy is told about the
    actions to come is true. Only the loop knows what was sent in between: actions sent again, and
    those from and to rest, which the limits count from.

    The robot is talked to by the thread of `run` alone, and the controller acts in another one: a
    policy that is slow, or hangs, does not keep the robot from being stopped. A driver that hangs
    does, and so does the end of the process.

    Args:
        robot, controller: see `Robot` and `RobotController`.
        interface: of the environment that the robot is. What it observes must fit it, and its
            action's limits, per control step of this loop, hold; `action.stop` is what brings the
            robot to rest, without one it is left with its last action.
        rate: control steps per second, or None for as fast as possible.
        timeout: seconds without a fresh action after which the episode is ended. A robot that
            `waits` waits for every action.
        executor: runs `controller.act`; default one thread of its own.
        clock, sleep: seconds, monotonic.
        hear: called with the texts of an episode's first observation before its time counts and
            the robot moves: what is new to a policy takes it a while. What it raises is passed on.

    Raises UserError for a timeout below two control steps, as any delay would end an episode.
    """

    def __init__(
        self,
        robot: Robot,
        controller: RobotController,
        interface: Interface,
        rate: float | None,
        timeout: float = 1.0,
        executor: Executor | None = None,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], object] = time.sleep,
        hear: Callable[[str], None] | None = None,
    ) -> None:
        self._waits = robot.waits
        if rate is not None and not self._waits and timeout < 2 / rate:
            raise UserError(
                f"timeout of {timeout:g} s at {rate:g} Hz; expected two control steps "
                f"({2 / rate:g} s) or more"
            )
        self.robot, self.controller, self.timeout = robot, controller, timeout
        self.interface, self.guard = interface, ActionGuard(interface.action)
        self.ticker, self.feed = Ticker(rate, clock, sleep), Feed(interface)
        self.latencies = array("d")  # seconds from an observation to its action, of all episodes
        self.held = 0  # ticks at which the last action was sent again
        self.paused = 0  # ticks at which the operator held the robot
        self.seconds = 0.0  # of all episodes
        self.first_action_at: float | None = None  # time.time()
        self.halting = False  # on the way to the stop action
        self._clock, self._hear = clock, hear
        self._executor = BackgroundThread("controller") if executor is None else executor
        self._call: Future[np.ndarray] | None = None
        stop = interface.action.stop
        self._stop = (
            None if stop is None else np.array([np.nan if v is None else v for v in stop], "f4")
        )
        self._refused = Refusals(controller, self.guard)
        self._begin(0)

    # ---- what it does ----------------------------------------------------------------------------
    def run(
        self,
        seed: int,
        steps: int | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> str:
        """One episode; why it ended: "success", "over" (the robot says so), "steps", "stopped",
        "timeout" (no new observation in time) or "starved" (no action of the controller in time).

        Args:
            seed: of the controller's episode; the robot's starts from it too.
            steps: most actions, without held ones.
            stop: asked at every tick.

        What the robot or the controller raises is passed on, after the robot was stopped. Raises
        UserError while the controller still works on an action of the last episode.
        """
        if self._call is not None and not self._call.done():
            raise UserError(
                "the policy still works on an action of the last episode; expected it to be done; "
                "try again later, or use a faster policy"
            )
        self._begin(seed)
        try:
            self.robot.reset(seed)
            self.controller.reset(environment=self.interface.id, seed=seed)
            begun = self._clock()
            try:
                end = self._ticks(steps, stop)
            finally:
                self.seconds += self._clock() - begun
            self._halt()
        except BaseException:
            self._halt(failed=True)
            raise
        return end

    def close(self) -> None:
        """End the thread of the controller; a call that hangs is left behind."""
        self._executor.shutdown(cancel_futures=True)

    def _begin(self, seed: int) -> None:
        self.seed = seed
        self.feed.reset()
        self._observations: list[Observation] = []
        self._actions: list[np.ndarray] = []
        self._times: list[float] = []  # at which observations arrived
        self._outcomes: list[Outcome] = []
        self._intervened: list[bool | None] = []
        self._sent: np.ndarray | None = None  # last two actions, (1 or 2, A)
        self._unfinite = self._refused["finite"]

    def _ticks(self, steps: int | None, stop: Callable[[], bool]) -> str:
        self.ticker.start()
        self._fresh = self._clock()  # when the last fresh action was sent
        while not stop():
            observation = self.feed.take(self.robot.observe())
            arrived = self._clock()
            done = self._look()
            if done is not None:
                return done
            if steps is not None and self.steps >= steps:
                return "steps"
            if (observation is None or not self._waits) and arrived - self._fresh > self.timeout:
                return "timeout"
            if observation is None:
                self._hold()
            else:
                if not self.steps and self._sent is None:
                    observation, arrived = self._heard(observation, arrived)
                end = self._answer(observation, arrived, stop)
                if end is not None:
                    return end
            self.ticker.wait()
        self._look()
        return "stopped"

    def _heard(self, observation: Observation, arrived: float) -> tuple[Observation, float]:
        """The observation to answer first, and when it came, after its texts were heard."""
        texts = [value for value in observation.values() if isinstance(value, str)]
        if self._hear is None or not texts:
            return observation, arrived
        for text in texts:
            self._hear(text)
        late = self._clock() - arrived > (self.ticker.period or POLL)
        newer = self.feed.take(self.robot.observe()) if late and not self._waits else None
        self.ticker.start()
        self._fresh = self._clock()
        return newer or observation, self._fresh

    def _look(self) -> str | None:
        """Note what the last action led to, where the robot can tell; why the episode is over, or
        None.
        """
        if not self._outcomes:
            return None
        found = self.robot.outcome()
        if found is None:
            return None
        if not np.isfinite(found.reward):
            raise UserError(
                f"the robot's outcome has the reward {found.reward}; expected a finite number"
            )
        try:
            said = None if found.success is None else true_or_false(found.success, "success")
        except BrokenContract as error:
            raise UserError(f"the robot's outcome at step {self.steps}: {error}") from error
        self._outcomes[-1] = found._replace(success=either(said, self._outcomes[-1].success))
        if not found.done:
            return None
        return "success" if any(o.success for o in self._outcomes) else "over"

    def _answer(
        self, observation: Observation, arrived: float, stop: Callable[[], bool]
    ) -> str | None:
        """Ask the controller, hold until it is done, and send its action; why the episode is over,
        or None.
        """
        call = self._call = self._executor.submit(self.controller.act, observation)
        while not _done(call, self.ticker.left() if self.ticker.period else POLL):
            if stop():
                return "stopped"
            if self._is_late():
                return "starved"
            if not self._waits:
                self._hold()
        action = np.asarray(call.result(), dtype=np.float32)
        if action.size != self.guard.action_dim:
            raise UserError(
                f"the controller's action has shape {action.shape}; expected "
                f"({self.guard.action_dim},), the size of an action of '{self.interface.id}'"
            )
        action = action.reshape(-1)
        if self.controller.stopped.any() or self._is_late():
            return "starved"
        if self.operator_holds and self._stop is not None:
            self._pause()
        else:
            self._execute(observation, action, arrived)
            self.latencies.append(self._clock() - arrived)
        self._fresh = self._clock()
        return None

    def _is_late(self) -> bool:
        late = not self._waits and self._clock() - self._fresh > self.timeout
        self._refused.late += late
        return late

    def _execute(self, observation: Observation, wanted: np.ndarray, arrived: float) -> None:
        action = self._send(wanted)
        if self.first_action_at is None:
            self.first_action_at = time.time()
        self._observations.append(observation)
        self._actions.append(action)
        self._times.append(arrived)
        self._outcomes.append(Outcome())
        self._intervened.append(self.controller.intervened)

    def _hold(self) -> None:
        if self._sent is not None:
            self._send(self._sent[-1])
            self.held += 1

    def _pause(self) -> None:
        self.paused += 1
        if self._sent is not None and self._stop is not None:
            self._send(step_to_rest(self.guard, self._sent, self._stop))

    def _send(self, wanted: np.ndarray) -> np.ndarray:
        last = self._sent
        if last is None and self._stop is not None:
            last = start_at_rest(self.guard, wanted, self._stop)
        action = self.guard(wanted[None], last)[0]
        if self._sent is None and not self._waits and self._refused["finite"] > self._unfinite:
            raise UserError(
                "the policy's first action is not finite, and there is none before it to hold; "
                "expected numbers; the robot was told nothing; check the policy and the observation"
            )
        self._sent = last  # from here on the robot may be moving, whatever its driver says
        self.robot.act(action.copy())
        self._sent = action[None] if last is None else np.stack([last[-1], action])
        return action

    # ---- how it ends -----------------------------------------------------------------------------
    def _halt(self, failed: bool = False) -> None:
        """Bring the robot to rest; an interrupt or error of that is raised afterwards, unless the
        caller has `failed` already.
        """
        if self._stop is None or self._sent is None:
            return
        self.halting = True
        try:
            with self._refused.ignored():
                error = self._go_to_rest(self._stop)
        finally:
            self.halting = False
        if error is not None and not failed:
            raise error

    def _go_to_rest(self, stop: np.ndarray) -> BaseException | None:
        """The first interrupt, or the error of a robot that refuses every attempt; neither ends the
        way before it must.
        """
        assert self._sent is not None
        interrupt: BaseException | None = None
        failures, first, left = 0, True, steps_to_rest(self.guard, self._sent, stop)
        self.ticker.start()
        while left > 0:
            try:
                if not first:
                    self.ticker.wait()
                first = False
                self._send(step_to_rest(self.guard, self._sent, stop))
                left, failures = left - 1, 0
                if at_rest(self.guard, self._sent, stop):
                    return interrupt
            except KeyboardInterrupt as error:
                interrupt = error
            except Exception as error:
                failures += 1
                if failures == ATTEMPTS:
                    log.error(
                        "the robot cannot be stopped, it refused %d actions: %s: %s",
                        ATTEMPTS,
                        type(error).__name__,
                        error,
                    )
                    return error
        log.error("the robot is not at rest: its last action is %s", few(self._sent[-1]))
        return interrupt

    # ---- what came of it -------------------------------------------------------------------------
    @property
    def steps(self) -> int:
        """Actions of this episode, without held ones."""
        return len(self._actions)

    @property
    def seen(self) -> Observation | None:
        """The last observation of this episode that was answered."""
        return self._observations[-1] if self._observations else None

    @property
    def operator_holds(self) -> bool:
        """Whether the last reply of the policy's server said that the robots are to stop."""
        return self.controller.held

    @property
    def refusals(self) -> dict[str, int]:
        """See `Refusals`."""
        return self._refused.counts()

    def recorded(self, source: str) -> Episode | None:
        """The episode so far, or None before the first action: observations that were answered and
        what was executed; when they arrived, unless the robot waits and time stands still.
        """
        if not self._actions:
            return None
        said = [o.success for o in self._outcomes]
        successes = np.array(said, dtype=bool)  # None, not said: not yet
        hit, first = (None, None) if set(said) == {None} else succeeded(successes)
        rewards = np.array([o.reward for o in self._outcomes], dtype=np.float32)
        marks = self._intervened
        return Episode(
            {
                name: _joined([o[name] for o in self._observations])
                for name in self._observations[0]
            },
            np.stack(self._actions),
            rewards,
            successes,
            self.interface.id,
            source,
            self.seed,
            hit,
            first,
            float(rewards.sum(dtype=np.float64)),
            timestamps=None if self._waits else from_first(self._times),
            interventions=None if None in marks else np.array(marks, dtype=bool),
        )


def _joined(values: Sequence[np.ndarray | str]) -> np.ndarray | str:
    """A field's values of an episode, (T, *shape), or its one text."""
    return values[0] if isinstance(values[0], str) else np.stack(values)


def _done(call: Future[Any], seconds: float) -> bool:
    """Whether a call has ended after at most so many seconds. Not by `result`: the call itself may
    raise TimeoutError.
    """
    try:
        call.exception(seconds)
    except TimeoutError:
        return False
    return True
