"""What becomes of a client's message: it is read, computed, counted and answered."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time

from alltrades.errors import UserError
from alltrades.policies.acting import ActingPolicy
from alltrades.policies.client.messages import pack, printable
from alltrades.policies.control.guards import Guard
from alltrades.policies.model.policy import DiffusionPolicy
from alltrades.policies.server.batcher import Batcher, Job
from alltrades.policies.server.events import Events
from alltrades.policies.server.metrics import Metrics
from alltrades.policies.server.notices import Notices
from alltrades.policies.server.requests import read_request
from alltrades.policies.server.session import Session, Sessions
from alltrades.policies.server.settings import ServerSettings

log = logging.getLogger(__name__)

LOGGED = 5  # refused requests of one client, and replaced chunks for each reason, that are logged
TALK = 20  # the same of one address in a minute, whose clients come and go


class Answers:
    """Answers messages by a policy; see `PolicyServer` for what an answer is.

    Args:
        policy: what requests are read for; `acting` computes its actions.
        guard: see `Batcher`.

    Attributes:
        policy, digest: what answers name; `adopt` changes them.
        batcher: the thread that computes.
    """

    def __init__(
        self,
        policy: DiffusionPolicy,
        acting: ActingPolicy,
        sessions: Sessions,
        settings: ServerSettings,
        guard: Guard,
        metrics: Metrics,
        events: Events,
        notices: Notices,
    ) -> None:
        self.policy, self.digest = policy, ""
        self.batcher = Batcher(
            acting,
            sessions,
            settings.max_clients,
            settings.batch,
            settings.budget_ms / 1e3,
            guard,
            self._deliver,
            self._guarded,
            self._unfinite,
        )
        self._rate = settings.rate_limit
        self._metrics, self._events, self._notices = metrics, events, notices
        self._waiting: dict[Job, asyncio.Future] = {}
        self._ids = itertools.count(1)
        self._loop: asyncio.AbstractEventLoop | None = None

    def begin(self) -> None:
        """In the event loop that messages will come in."""
        self._loop = asyncio.get_running_loop()

    def adopt(self, policy: DiffusionPolicy, digest: str) -> None:
        """Go on with another policy, which the batcher has already."""
        self.policy, self.digest = policy, digest

    def give_up(self) -> int:
        """Fail what is not answered yet; how many these are."""
        given_up = [(job, future) for job, future in self._waiting.items() if not future.done()]
        for job, future in given_up:
            job.error = TimeoutError()
            future.set_result(None)
        return len(given_up)

    async def reply(self, session: Session, message: bytes | str, received: float) -> bytes | str:
        """The answer to one message; text is an error, in this protocol."""
        assert self._loop is not None
        session.seen = received
        session.requests += 1
        try:
            if not session.allowed(self._rate, received):
                raise UserError(
                    f"more than {self._rate:g} requests per second; expected fewer; send slower"
                )
            request = read_request(message, self.policy, session.environment)
        except (UserError, ValueError) as error:
            return self._refuse(session, str(error))
        job = Job(session, request, received)
        if self.batcher.at_once(job):
            self._measure([job])
        else:
            future = self._waiting[job] = self._loop.create_future()
            self.batcher.submit(job)
            await future
        if job.refused is not None:
            return self._refuse(session, job.refused)
        if job.error is not None:
            self._metrics.count("requests", outcome="failed")
            self._events.repeat(
                "failed", f"requests, last by {type(job.error).__name__}", 1, session.id
            )
            return f"failed inside the server: {type(job.error).__name__}; see its log"
        return self._answer(job)

    def _refuse(self, session: Session, reason: str) -> str:
        session.refused += 1
        reason = printable(" ".join(reason.split()), 300)
        self._metrics.count("requests", outcome="refused")
        if session.refused > LOGGED:
            return f"refused: {reason}"
        if self._notices.allow(session.address, "refused", TALK):
            last = (
                "; later ones of this client are only counted" if session.refused == LOGGED else ""
            )
            log.warning("request of client %d refused: %s%s", session.id, reason, last)
            self._events.add("refused", reason, session.id)
        else:
            self._notices.add(session.address, "refused requests of ever new connections")
        return f"refused: {reason}"

    def _answer(self, job: Job) -> bytes:
        session, request = job.session, job.request
        assert job.actions is not None
        now = time.perf_counter()
        waits = request.overlap is None or not len(
            request.overlap.known
        )  # it has executed what a synchronous robot executes
        had = self.policy.n_action_steps if waits else self.policy.horizon
        if session.late(
            now, had, self.policy.environments[request.index].control_hz, request.begin
        ):
            session.starved += 1
            self._metrics.count("starved")
        session.held = job.held
        timing = {
            "infer_ms": 1e3 * (job.ended - job.begun),
            "queue_ms": 1e3 * (job.begun - job.received),
            "batch": job.rows,
        }
        if session.previous > 0:
            timing["prev_total_ms"] = 1e3 * session.previous
        reply = pack(
            {
                "actions": job.actions,
                "request_id": next(self._ids) if request.id is None else request.id,
                "policy": self.digest,
                "held": job.held,
                "starved": session.starved,
                "server_timing": timing,
            }
        )
        now = time.perf_counter()
        session.latencies.append((now, now - job.received))
        self._metrics.count("requests", outcome="held" if job.held else "answered")
        self._metrics.observe("request_seconds", now - job.received)
        self._metrics.observe("queue_seconds", job.begun - job.received)
        return reply

    # ---- called by the policy's thread -----------------------------------------------------------
    def _deliver(self, jobs: list[Job]) -> None:
        self._measure(jobs)
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._resolve, jobs)

    def _measure(self, jobs: list[Job]) -> None:
        planned = [job for job in jobs if job.rows]
        if planned:
            self._metrics.observe("infer_seconds", planned[0].ended - planned[0].begun)
            self._metrics.observe("batch_requests", len(planned))

    def _resolve(self, jobs: list[Job]) -> None:
        for job in jobs:
            future = self._waiting.pop(job)
            if not future.done():
                future.set_result(None)

    def _unfinite(self, count: int) -> None:
        self._metrics.count("unfinite_answers", count)
        self._events.repeat("not finite", "answers of the policy", count, None)
        if self._notices.allow("policy", "not finite", 1):
            log.warning(
                "answers of policy %s are not finite; expected finite actions; check what it "
                "observes, or serve another policy; /healthz says so meanwhile",
                self.digest,
            )

    def _guarded(self, reason: str, count: int, job: Job) -> None:
        session = job.session
        self._metrics.count("guard_refusals", count, reason=reason)
        session.guarded[reason] += 1
        self._events.repeat(f"guard: {reason}", "actions replaced", count, session.id)
        if session.guarded[reason] <= LOGGED and self._notices.allow(
            session.address, "guarded", TALK
        ):
            last = (
                "; later ones of this client are only counted"
                if session.guarded[reason] == LOGGED
                else ""
            )
            log.warning(
                "%d actions for client %d replaced by the guard (%s)%s",
                count,
                session.id,
                reason,
                last,
            )
