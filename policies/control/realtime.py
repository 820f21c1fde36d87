"""Asynchronous execution: the next chunk is drawn while the current one is executed (real-time
chunking).

Black, Galliker and Levine 2025, "Real-Time Execution of Action Chunking Flow Policies", without
their gradients: the actions that will have been executed when a chunk can arrive are frozen, those
after them pull with weights that decay, and the rest is drawn to fit (see
`alltrades.policies.model.samplers.sample`).
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any

import numpy as np

from alltrades.errors import UserError
from alltrades.policies.acting import ActingPolicy
from alltrades.policies.control.background import BackgroundThread
from alltrades.policies.control.chunks import Overlap
from alltrades.policies.control.controller import RobotController
from alltrades.policies.control.guard import Watchdog
from alltrades.policies.control.guards import Guard
from alltrades.policies.control.lanes import BATCH, Given, Lanes

log = logging.getLogger(__name__)

WARM_UP = 2  # policy calls whose duration says nothing about those to come
REMEMBERED = 32  # durations of policy calls
QUANTILE = 0.95  # of them: the delay to be ready for
PATIENCE = 60.0  # seconds to wait for an episode's first chunk; the first call of a process is slow
ROUNDING = 1e-6  # control steps


def overlap_weights(frozen: int, end: int, horizon: int) -> np.ndarray:
    """(horizon,) float32: 1 before `frozen`, 0 from `end` on, c (exp(c) - 1) / (e - 1) between
    (Black et al. 2025, eq. 5).

    c = (end - i) / (end - frozen + 1) falls linearly with the step i.
    """
    i = np.arange(horizon)
    c = np.clip((end - i) / (max(end, frozen) - frozen + 1), 0.0, 1.0)
    return np.where(i < frozen, 1.0, c * np.expm1(c) / math.expm1(1.0)).astype(np.float32)


@dataclass(eq=False)
class _Flight:
    """A policy call in the background: rows of its lanes, when it began and ended, in seconds of
    the controller's clock.
    """

    lanes: Sequence[int]
    start: float
    future: Future[np.ndarray] | None = None
    end: float | None = None


class RealTimeController(Lanes, RobotController):
    """Like `Controller.act`, but a lane's next chunk is drawn in the background while its current
    one is executed.

    A chunk is asked for every `every` steps, or as early as the delay demands, and replaces the
    actions that are left when it arrives: as many of its first ones are skipped as were executed
    since its observation. Before, it was told what they would be: for the steps that the delay
    takes, they are frozen. The delay is measured, without the first calls; what counts is an upper
    quantile of the last ones. Until then it is `delay`.

    An episode's first chunk is waited for, as there is no action to hold yet; it begins with its
    first action. If later no action is left, the last one is held; more than `stop_after` seconds
    without a fresh one stop the lane until its reset (see `Watchdog`). Both are counted in
    `refusals`. A policy call that fails is logged and tried again at the next step. While the
    operator of a server holds the robots (`policy.held`) lanes get their environment's stop action,
    and go on from there.

    Args:
        policy, lanes, guard, batch: see `Lanes`.
        stop_after: seconds.
        every: steps between two requests, one of which is on its way at a time; 1 for as often as
            its calls allow: fresher actions for more calls. By default `n_action_steps` less the
            delay: no action is then older than one of a synchronous robot.
        delay: seconds that a chunk is taken to need until that is measured; None: as many control
            steps as a chunk has beyond those that are executed.
        overlap: steps after the frozen ones over which the pull of the last chunk decays; None for
            all that it has left. A pull makes chunks agree, and holds a robot to what was planned
            from older observations: by default there is none.
        executor: runs the policy calls; default one thread of its own. The policy is called by it
            alone.
        rate: control steps per second; default the `control_hz` of a lane's environment.
        clock: seconds, never going back.
    """

    def __init__(
        self,
        policy: ActingPolicy,
        lanes: int = 1,
        guard: Guard = True,
        batch: int = BATCH,
        *,
        stop_after: float = 1.0,
        every: int | None = None,
        delay: float | None = None,
        overlap: int | None = 0,
        executor: Executor | None = None,
        rate: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(policy, lanes, guard, batch)
        if overlap is not None and overlap < 0:
            raise ValueError(f"overlap = {overlap}; expected at least 0, or None")
        if every is not None and every < 1:
            raise ValueError(f"every = {every}; expected at least 1, or None")
        if rate is not None and not rate > 0:
            raise ValueError(f"rate = {rate}; expected a positive number, or None")
        self._every, self._rate = every, rate
        self._stop_after, self._guess, self._overlap, self._clock = (
            stop_after,
            delay,
            overlap,
            clock,
        )
        self._own = BackgroundThread("policy") if executor is None else None
        self._executor: Executor = executor or self._own  # type: ignore[assignment]
        self._flights: list[_Flight | None] = [None] * lanes
        self._steps, self._asked = (
            [0] * lanes,
            [0] * lanes,
        )  # of the episode: so far, and at the last request
        self._frozen = [0] * lanes  # steps frozen in the last request
        self._watchdogs = [Watchdog(stop_after) for _ in range(lanes)]
        self._delays: deque[float] = deque(maxlen=REMEMBERED)
        self._calls = 0  # that came back
        self._failing = False
        self._counts = dict.fromkeys(("chunks", "late", "dropped", "failures"), 0)

    def begin(self, lane: int, environment: str, seed: int) -> None:
        """Start an episode in one lane; a chunk that is on its way for the last one will not be
        executed.

        Raises UserError where neither `rate` nor the environment says how fast control steps
        follow.
        """
        super().begin(lane, environment, seed)
        self._hz(lane)
        if self._flights[lane] is not None:
            self._counts["dropped"] += 1
        self._flights[lane], self._steps[lane], self._asked[lane] = None, 0, 0
        self._watchdogs[lane] = Watchdog(self._stop_after, self.environment(lane).action.stop)

    def act(self, observation: Given) -> Any:
        """One control step, of the forms of `Controller.act`.

        Raises UserError when an episode's first chunk does not come, and what the policy raises
        there.
        """
        rows = self.observed(observation)  # all are checked before any is used
        for lane, row in rows.items():
            self.states[lane].look(row)
            self._land(lane)
        due = [lane for lane in rows if self._due(lane)]
        for start in range(0, len(due), self.source.batch):
            self._ask(due[start : start + self.source.batch])
        out: dict[int, np.ndarray] = {}
        for lane in rows:
            if self.states[lane].last is None:
                self._wait(lane)
            self._land(lane)
            out[lane] = self.leave(lane, self._next(lane)[None])[0]
            self._steps[lane] += 1
        return self.answered(observation, out)

    def close(self) -> None:
        """End the thread; a policy call that hangs is left behind."""
        if self._own is not None:
            self._own.shutdown(cancel_futures=True)

    @property
    def stopped(self) -> np.ndarray:
        """(lanes,) bool: lanes that got no action for too long."""
        return np.array([watchdog.stopped for watchdog in self._watchdogs])

    def statistics(self) -> dict[str, Any]:
        """What happened so far: chunks that were taken, of which `late` ones came after the steps
        frozen for them; chunks dropped by a reset; failed policy calls; control steps held and
        stopped for want of an action; delay in ms.
        """
        delays = 1e3 * np.array(self._delays)
        quantiles = {"p50": 50.0, "p95": 95.0, "max": 100.0}
        return self._counts | {
            "held": self.refusals["hold"],
            "stopped": self.refusals["stop"],
            "delay_ms": {
                name: float(np.percentile(delays, q)) if len(delays) else None
                for name, q in quantiles.items()
            },
        }

    def delay(self, lane: int) -> int:
        """Control steps that a chunk of this lane is expected to take."""
        if not self._delays and self._guess is None:
            return self.policy.horizon - self.policy.n_action_steps
        seconds = (
            float(np.quantile(self._delays, QUANTILE, method="higher"))
            if self._delays
            else self._guess or 0.0
        )
        return max(0, math.ceil(seconds * self._hz(lane) - ROUNDING))

    def _hz(self, lane: int) -> float:
        """Control steps per second of a lane."""
        hz = self._rate or self.environment(lane).control_hz
        if hz is None:
            raise UserError(
                f"the control rate of '{self.environment(lane).id}' is unknown; expected control "
                "steps per second; give rate=HZ"
            )
        return hz

    # ---- on the way ------------------------------------------------------------------------------
    def _due(self, lane: int) -> bool:
        if self._flights[lane] is not None or self._watchdogs[lane].stopped:
            return False
        delay = self.delay(lane)
        every = self.policy.n_action_steps - delay if self._every is None else self._every
        interval = max(1, min(every, self.policy.horizon - delay))
        return not self.states[lane].queue or self._steps[lane] - self._asked[lane] >= interval

    def _ask(self, lanes: list[int]) -> None:
        overlaps = [self._decided(lane) for lane in lanes]
        inputs = self.source.inputs([self.states[lane] for lane in lanes], overlaps)
        flight = _Flight(lanes, self._clock())
        for lane in lanes:
            self._flights[lane], self._asked[lane] = flight, self._steps[lane]
        flight.future = self._executor.submit(self.policy.act, *inputs)
        flight.future.add_done_callback(lambda _: self._ended(flight))

    def _ended(self, flight: _Flight) -> None:
        """In the executor's thread."""
        end = self._clock()
        self._calls += 1
        if self._calls > WARM_UP:
            self._delays.append(end - flight.start)
        flight.end = end  # last: now the lanes may take it

    def _decided(self, lane: int) -> Overlap | None:
        """What the lane will execute while its next chunk is drawn, and what it had planned after
        that.
        """
        state = self.states[lane]
        last, left = state.last, state.queue[::-1]
        if last is None:
            self._frozen[lane] = 0
            return None
        frozen = self._frozen[lane] = min(self.delay(lane), self.policy.horizon)
        end = max(
            frozen, len(left) if self._overlap is None else min(len(left), frozen + self._overlap)
        )
        planned = np.stack(left[:end]) if left and end else last[-1:]
        known = np.concatenate(
            [planned, np.repeat(planned[-1:], max(0, end - len(planned)), axis=0)]
        )[:end]
        guard = self.guards.of(state.environment)
        if guard is not None:
            known = guard.preview(known, last)
        keep = overlap_weights(frozen, end, end)
        keep[~np.isfinite(known).all(axis=1).cumprod().astype(bool)] = 0.0
        return Overlap(np.where(keep[:, None] > 0, known, 0.0), keep)

    def _wait(self, lane: int) -> None:
        flight = self._flights[lane]
        if flight is None or flight.future is None:
            return
        try:
            flight.future.result(PATIENCE)
        except TimeoutError as error:
            raise UserError(
                f"no actions within {PATIENCE:g} s of an episode's start; expected a chunk; check "
                "the policy or its server"
            ) from error
        except Exception:
            self._flights[lane] = None
            raise
        flight.end = self._clock() if flight.end is None else flight.end

    def _land(self, lane: int) -> None:
        """Take the lane's chunk if it is there: skip what was executed since its observation."""
        flight = self._flights[lane]
        if flight is None or flight.future is None or flight.end is None:
            return
        self._flights[lane] = None
        error = flight.future.exception()
        if error is not None:
            self._counts["failures"] += 1
            if not self._failing:
                log.warning(
                    "no chunk: %s: %s; tried again and again",
                    type(error).__name__,
                    " ".join(str(error).split())[:300],
                )
            self._failing = True
            return
        self._failing = False
        executed = self._steps[lane] - self._asked[lane]
        chunk = flight.future.result()[flight.lanes.index(lane), executed:]
        self.states[lane].queue = list(self.source.own(self.states[lane], chunk)[::-1])
        self._counts["chunks"] += 1
        self._counts["late"] += executed > self._frozen[lane]

    def _next(self, lane: int) -> np.ndarray:
        """The lane's next action (A_env,), before the guard."""
        state, watchdog, now = self.states[lane], self._watchdogs[lane], self._clock()
        queue, last = state.queue, state.last
        if last is not None and self.held and not watchdog.stopped:
            queue.clear()  # a server's chunk for a held robot repeats what it did last
            watchdog.fresh(now)
            return self._rest(lane)
        if queue and not watchdog.stopped:
            watchdog.fresh(now)
            return queue.pop()
        assert last is not None  # `_wait` saw to that
        action, reason = watchdog.missing(last[-1], now)
        self.guards.missed(lane, reason)
        return action

    def _rest(self, lane: int) -> np.ndarray:
        """The stop action (A_env,) of the lane's environment; its last action where that
        has none.
        """
        last, stop = self.states[lane].last, self.environment(lane).action.stop
        assert last is not None
        return (
            last[-1]
            if stop is None
            else np.array([b if a is None else a for a, b in zip(stop, last[-1])], np.float32)
        )
