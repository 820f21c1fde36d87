"""The thread that calls the policy: collects the requests of all clients within a latency budget,
answers them together.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from alltrades.data.examples import random_frames
from alltrades.data.fields import Observation
from alltrades.errors import UserError
from alltrades.policies.acting import ActingPolicy
from alltrades.policies.control.controller import Controller
from alltrades.policies.control.guards import Guard
from alltrades.policies.control.lane import check_texts, texts_of
from alltrades.policies.server.notices import Notices
from alltrades.policies.server.requests import Request
from alltrades.policies.server.served import ServedController
from alltrades.policies.server.session import Session, Sessions

SHORT = 0.02  # seconds of a policy call that the network can wait for
SLOWEST = 1.0  # control rate in Hz that is assumed where it is unknown
PROVEN = 20  # calls in a row as short as that, after which it may be made to wait
log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(eq=False)
class Job:
    """One request on its way; the batcher fills in the answer or the error.

    actions (n_action_steps, action_dim) in environment units, or (horizon, action_dim) for a
    request with an overlap; `rows` of the policy call that made them, 0 when held. `refused` is the
    reason why the request was not taken, which changed nothing.
    """

    session: Session
    request: Request
    received: float
    actions: np.ndarray | None = None
    error: BaseException | None = None
    refused: str | None = None
    held: bool = False
    rows: int = 0
    begun: float = 0.0  # start and end of the policy call
    ended: float = 0.0


def stable_sizes(policy: ActingPolicy, batch: int) -> list[int]:
    """Batch sizes up to `batch`, ascending, whose rows have the bits of a call with `batch` rows;
    warms the policy up.

    Results of a matrix product may depend on its number of rows in the last bit, which is a
    question of the processor and of the library. The order of additions does not depend on the
    numbers, so that random ones show a difference.
    """
    sizes = [s for s in (1, 2, 4, 8, 16, 32, 64) if s < batch] + [batch]
    controller = Controller(policy, lanes=batch, guard=False, batch=batch)
    rng = np.random.default_rng(0)
    infos = [policy.environments[lane % len(policy.environments)] for lane in range(batch)]
    count, said = policy.n_obs_steps, policy.sentences
    frames = {lane: random_frames(info, count, rng, said) for lane, info in enumerate(infos)}

    def run(size: int) -> list[np.ndarray]:
        controller.source.batch = size
        for lane, info in enumerate(infos):
            controller.begin(lane, info.id, lane)
        return list(controller.plan(frames).values())

    full = run(batch)
    same = [
        s
        for s in sizes[:-1]
        if all(np.array_equal(a, b, equal_nan=True) for a, b in zip(run(s), full))
    ]
    return [*same, batch]


class Batcher(threading.Thread):
    """Answers jobs in the order of arrival, at most `batch` in one policy call.

    A call begins as soon as `batch` requests are there, or one of every active client, or `budget`
    seconds after the first of them came. While the policy runs, requests gather for the next call.
    An episode's actions do not depend on its neighbours: all calls are of sizes that `stable_sizes`
    found equal.

    Args:
        policy: what is served; called by one thread at a time: this one, or that of `at_once`.
        sessions: the connected clients.
        deliver: called in this thread with jobs that are done.
        guarded: called with (reason, count, job) when the guard replaced actions of its chunk.
        unfinite: called with how many chunks of a policy call have numbers that are not finite,
            before any guard.
    """

    def __init__(
        self,
        policy: ActingPolicy,
        sessions: Sessions,
        lanes: int,
        batch: int,
        budget: float,
        guard: Guard,
        deliver: Callable[[list[Job]], None],
        guarded: Callable[[str, int, Job], None],
        unfinite: Callable[[int], None],
    ) -> None:
        super().__init__(name="policy", daemon=True)
        self._controller = ServedController(policy, lanes=lanes, guard=guard, batch=batch)
        self._sizes = [self._controller.source.batch]
        self._sessions, self._budget = sessions, budget
        self._deliver, self._guarded, self._unfinite = deliver, guarded, unfinite
        self._notices = Notices(log)
        self._changed = threading.Condition()
        self._jobs: list[Job] = []
        self._calls: list[tuple[Callable[[], Any], Future]] = []
        self._closing = False
        self._working = threading.Lock()  # held by the thread that calls the policy
        self._quick = 0  # policy calls in a row that were short
        self._seed = 0  # of the next episode that brings none
        self.held = False  # every robot is brought to rest
        self.finite = True  # whether all answers of the last policy call were

    @property
    def batch(self) -> int:
        """Rows of the largest policy call."""
        return self._sizes[-1]

    def submit(self, job: Job) -> None:
        """Let a job be answered; from any thread, one at a time for each session."""
        with self._changed:
            self._jobs.append(job)
            self._changed.notify()

    def at_once(self, job: Job) -> bool:
        """Answer a lone client's job in the caller's thread; False, and nothing done, where it is
        to be submitted.

        Going to the policy's thread and back takes longer than all else about such a request. It is
        spared while policy calls have proven short, as the caller, who attends to the network and
        to signals, hears of nothing else meanwhile.
        """
        if (
            self._quick < PROVEN
            or self._sessions.active(job.received) > 1
            or not self._working.acquire(blocking=False)
        ):
            return False
        try:
            if self._jobs or self._calls or self._closing:
                return False
            self._answer([job])
            return True
        finally:
            self._working.release()

    def call(self, function: Callable[[], T]) -> Future[T]:
        """Run a function between two policy calls."""
        future: Future[T] = Future()
        with self._changed:
            self._calls.append((function, future))
            self._changed.notify()
        return future

    def replace(self, policy: ActingPolicy, sizes: list[int]) -> None:
        """Go on with another policy for the same environments, history and chunk; run it by `call`.

        Histories, noise and the guard's memory of the last actions stay as they are.
        """
        self._controller.source.policy = policy
        self._sizes, self.finite = sizes, True

    def warm_up(self) -> None:
        """A network's first call is slow, and a policy that cannot run should not be announced; run
        it by `call`.
        """
        self._sizes = stable_sizes(self._controller.policy, self._controller.source.batch)

    def close(self, seconds: float) -> None:
        """End the thread after the jobs that are there; a policy call that hangs is left behind
        after `seconds`.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self.is_alive():
            self.join(seconds)
        if self.is_alive():
            log.warning(
                "a policy call did not end within %g s; the server ends without it", seconds
            )

    def run(self) -> None:
        while True:
            jobs, calls = self._collect()
            with self._working:
                for function, future in calls:
                    try:
                        future.set_result(function())
                    except BaseException as error:
                        future.set_exception(error)
                if jobs:
                    self._answer(jobs)
            if jobs:
                self._deliver(jobs)
            elif not calls:
                return

    def _collect(self) -> tuple[list[Job], list[tuple[Callable[[], Any], Future]]]:
        """The next jobs and calls; nothing at all when the thread is to end."""
        most = self.batch
        with self._changed:
            while not (self._jobs or self._calls or self._closing):
                self._changed.wait()
            while self._jobs and not self._calls and not self._closing:
                now = time.perf_counter()
                left = self._jobs[0].received + self._budget - now
                if left <= 0 or len(self._jobs) >= min(most, self._sessions.active(now)):
                    break
                self._changed.wait(left)
            calls, self._calls = self._calls, []
            jobs, self._jobs = self._jobs[:most], self._jobs[most:]
            return jobs, calls

    def _answer(self, jobs: list[Job]) -> None:
        start, held = time.perf_counter(), self.held
        for job in jobs:
            job.held, job.begun = held, start
        try:
            going = [job for job in jobs if self._begin(job)]
            if held:
                for job in going:
                    self._hold(job)
            elif going:
                self._plan(going)
        except Exception as error:
            if self._notices.allow("policy", type(error).__name__, 1):
                log.exception("request failed; the like of it is logged once a minute")
            for job in jobs:
                job.error = error
        end = time.perf_counter()
        for job in jobs:
            job.ended = end
        self._quick = self._quick + 1 if end - start < SHORT else 0

    def _begin(self, job: Job) -> bool:
        """Take a request into its session; False where it is refused, which changes nothing."""
        controller, session, request = self._controller, job.session, job.request
        goes_on = not request.begin or self._goes_on(job)
        try:
            info = controller.policy.environments[request.index]
            if job.held and not controller.can_hold(session.lane, info, request.overlap, goes_on):
                raise UserError(
                    "the operator has stopped the robots, and this one has no last action to hold "
                    f"and no whole stop action in '{info.id}'; expected robots that go on; ask "
                    "again later"
                )
            if not request.begin:
                check_texts(session.texts, request.frames, info)
            for said in texts_of(request.frames).values():
                controller.policy.hear(said)
            if goes_on and request.overlap is not None:
                controller.check(session.lane, request.overlap.known)
        except UserError as error:
            job.refused = str(error)
            return False
        if request.begin:
            seed = self._seed if request.seed is None else request.seed
            controller.begin(session.lane, request.environment, seed, goes_on)
            self._seed += request.seed is None
            session.environment, session.replies = request.environment, 0
            session.last = session.last if goes_on else None
            session.texts = texts_of(request.frames)
            session.backlog.clear()
        session.backlog.append(request.frames)
        return True

    def _goes_on(self, job: Job) -> bool:
        """Whether an episode begins so soon that the robot must still be where the last one left
        it.
        """
        policy, session = self._controller.policy, job.session
        if session.environment is None:
            return False
        before, info = (
            policy.environments[i]
            for i in (policy.environment_index(session.environment), job.request.index)
        )
        return before.action_dim == info.action_dim and session.hurries(
            job.received, policy.horizon / (before.control_hz or SLOWEST)
        )

    def _plan(self, jobs: list[Job]) -> None:
        controller = self._controller
        frames = {job.session.lane: _joined(job.session.backlog) for job in jobs}
        controller.source.batch = next(s for s in self._sizes if s >= len(jobs))
        before = [controller.refusals_of(job.session.lane) for job in jobs]
        for job in jobs:
            job.session.backlog.clear()  # the controller has them, even if the policy fails
        overlaps = {
            job.session.lane: job.request.overlap for job in jobs if job.request.overlap is not None
        }
        try:
            planned = controller.plan(frames, overlaps)
        finally:
            self.finite = not controller.unfinite
            if not self.finite:
                self._unfinite(controller.unfinite)
        for job in jobs:
            job.rows = controller.source.batch
            self._send(job, planned[job.session.lane])
        for job, known in zip(jobs, before):
            for reason, count in controller.refusals_of(job.session.lane).items():
                if count > known[reason]:
                    self._guarded(reason, count - known[reason], job)

    def _hold(self, job: Job) -> None:
        session = job.session
        count = self._controller.policy.n_obs_steps  # what the policy will want to know later
        seen = _joined(session.backlog)
        session.backlog[:] = [
            {name: v if isinstance(v, str) else v[-count:].copy() for name, v in seen.items()}
        ]
        self._send(job, self._controller.hold(session.lane, job.request.overlap))

    def _send(self, job: Job, actions: np.ndarray) -> None:
        """Answer with a chunk, of which a robot that was asked with an overlap is taken to execute
        as many as any other.
        """
        job.actions, job.session.last = (
            actions,
            actions[: self._controller.policy.n_action_steps][-1],
        )


def _joined(parts: Sequence[Observation]) -> Observation:
    """Frames one after another; those of one part as they are."""
    if len(parts) == 1:
        return parts[0]
    return {
        name: value if isinstance(value, str) else np.concatenate([part[name] for part in parts])
        for name, value in parts[0].items()
    }
