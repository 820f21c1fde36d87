"""The service itself: connections, signals, reloading, the end."""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

from alltrades.data.actions import ActionSpec
from alltrades.data.interface import Interface
from alltrades.errors import UserError
from alltrades.policies.acting import ActingPolicy
from alltrades.policies.client.messages import FACTS, MAX_MESSAGE, pack, printable, require
from alltrades.policies.client.token import read_token
from alltrades.policies.control.limits import read_limits
from alltrades.policies.model.policy import DiffusionPolicy
from alltrades.policies.server import access
from alltrades.policies.server.answers import Answers
from alltrades.policies.server.batcher import stable_sizes
from alltrades.policies.server.events import Events
from alltrades.policies.server.metrics import Metrics
from alltrades.policies.server.notices import Notices
from alltrades.policies.server.pages import LIVE, Pages
from alltrades.policies.server.reload import load_successor, stamp
from alltrades.policies.server.requests import message_limit
from alltrades.policies.server.session import Session, Sessions
from alltrades.policies.server.settings import ServerSettings
from alltrades.system.platforms import needs_posix
from alltrades.system.remote.place import place

log = logging.getLogger(__name__)

PROTOCOL = 3
GOING_AWAY, TRY_AGAIN_LATER = 1001, 1013  # websocket close codes
WATCH = 1.0  # seconds between two looks at the artifact, and at the clients
UNREAD = 10.0  # seconds for a client to take a reply
NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
LEFT = 1.0  # seconds for the policy's thread to end when nobody waits for it


class PolicyServer:
    """`run()` blocks until `stop()`, SIGTERM or SIGINT, answers what is in flight, closes the
    connections and returns.

    A reply is {"actions": (n_action_steps, action_dim), "request_id", "policy": digest, "held",
    "starved", "server_timing": {"infer_ms", "queue_ms", "batch", "prev_total_ms"}}; to a request
    with "known" the actions are (horizon, action_dim). "held" is true while the operator has
    stopped the robots: the actions then lead to the environment's stop action, or repeat the last
    one where it has none, from the frozen ones on; a robot of which neither is known is refused.
    "starved" counts replies that came more than a control period after the client had used up the
    actions of the one before.

    The guard knows what each connection was sent, so that a connection is for one robot. Neither
    "known" (see `ServedController`) nor "reset" lets a chunk begin beyond the rate limit from that,
    unless the robot can have gone elsewhere in between: an episode that begins after fewer than
    three replies of the last one, and without a pause, goes on from what was sent. What a robot did
    before it connected is not known.

    Args:
        policy: what is served; called by one thread at a time, or for `settings.engine` onnx its
            graph.
        settings: address, limits, protection.
        artifact: folder from which SIGHUP, `reload()` and `settings.watch` load again.
    """

    def __init__(
        self,
        policy: DiffusionPolicy,
        settings: ServerSettings | None = None,
        artifact: Path | str | None = None,
    ) -> None:
        require("websockets.asyncio.server")
        self._closed = require("websockets.exceptions").ConnectionClosed
        require("msgpack")
        self.settings = settings or ServerSettings()
        self.artifact = None if artifact is None else place(artifact)
        self._seen = (
            None if self.artifact is None else stamp(self.artifact)
        )  # before anything can be written again
        s = self.settings
        if s.watch and self.artifact is None:
            raise UserError(
                "watch is on and no artifact folder was given; expected the folder that is to be "
                "watched"
            )
        self.token = None if s.token_file is None else read_token(s.token_file)
        self._tls = (
            None
            if s.certificate is None or s.key is None
            else access.tls_context(s.certificate, s.key)
        )
        self.max_message = s.max_message or message_limit(policy)
        self.port = s.port
        self.scheme = "ws" if self._tls is None else "wss"
        self.metrics, self.sessions = Metrics(), Sessions(s.max_clients)
        self.events, self.notices = Events(), Notices(log)
        self._limits = s.guard if s.limits is None else read_limits(s.limits, policy.environments)
        self._answers = Answers(
            policy,
            self._acting(policy),
            self.sessions,
            s,
            self._limits,
            self.metrics,
            self.events,
            self.notices,
        )
        self._batcher = self._answers.batcher
        self._pages = Pages(self)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self.draining = False
        self.ready = threading.Event()

    @property
    def policy(self) -> DiffusionPolicy:
        """What is served now."""
        return self._answers.policy

    @property
    def digest(self) -> str:
        """That of what is served now; "" before `run()`."""
        return self._answers.digest

    def limits(self, info: Interface) -> ActionSpec:
        """Those of an environment, tightened by the file that was given."""
        return info.action if isinstance(self._limits, bool) else self._limits[info.id]

    def metadata(self) -> dict[str, Any]:
        """What a client learns on connecting; vectors as lists, rates in Hz, limits those that the
        guard has, the largest message in bytes.
        """
        environments = [
            replace(e, action=self.limits(e)).to_json() for e in self.policy.environments
        ]
        return {
            "server": "alltrades",
            "protocol": PROTOCOL,
            "policy": self.digest,
            "max_message": self.max_message,
            "environments": environments,
            **{name: getattr(self.policy, name) for name in FACTS},
        }

    # ---- from any thread -------------------------------------------------------------------------
    def run(self, announce: Callable[[str], None] | None = None) -> None:
        """Serve until stopped; `announce` gets the address once clients can connect.

        Raises UserError when the address cannot be used.
        """
        self._batcher.start()
        try:
            asyncio.run(self._serve(announce))
        finally:
            self._batcher.close(LEFT)

    def stop(self) -> None:
        """End `run()`, if it has not ended."""
        if self._loop is not None and self._stopping is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stopping.set)

    @property
    def held(self) -> bool:
        """Whether every robot is to hold."""
        return self._batcher.held

    @property
    def healthy(self) -> bool:
        """Whether requests are taken and answered."""
        return self._batcher.is_alive() and not self.draining

    @property
    def finite(self) -> bool:
        """Whether all actions of the last policy call were finite, before any guard."""
        return self._batcher.finite

    def hold(self, held: bool = True) -> None:
        """Bring every robot to rest from its next request on, or let them go on again."""
        if held != self._batcher.held:
            self._batcher.held = held
            self.events.add(
                "stop" if held else "resume", "every robot holds" if held else "robots go on"
            )
            log.warning(
                "stopped: every robot is brought to rest" if held else "resumed: robots go on"
            )

    def reload(self) -> Future[bool]:
        """Load the artifact again and go on with it; the result says whether it was taken. The
        reason of a refusal is logged.
        """
        if self._loop is None or self.artifact is None:
            raise UserError(
                "the server does not run, or has no artifact folder to load from; expected both"
            )
        return asyncio.run_coroutine_threadsafe(self._reload(), self._loop)

    # ---- start and end ---------------------------------------------------------------------------
    async def _serve(self, announce: Callable[[str], None] | None) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        self._answers.begin()
        self._adopt(self.policy, self.policy.digest())
        self._reloading = asyncio.Lock()
        self._loop.set_exception_handler(self._unforeseen)
        await asyncio.wrap_future(self._batcher.call(self._batcher.warm_up))
        host = self.settings.host
        try:
            from alltrades.policies.server.door import OPEN_SECONDS, Door, quiet

            server = await require("websockets.asyncio.server").serve(
                self._handle,
                host,
                self.port,
                compression=None,
                max_size=self.max_message,
                max_queue=4 if self.max_message <= MAX_MESSAGE else 1,
                process_request=self._pages.answer,
                open_timeout=OPEN_SECONDS,
                create_connection=Door(self.notices).connection,
                ssl=self._tls,
                logger=quiet(),
            )
        except OSError as error:
            raise UserError(
                f"{host}:{self.port} cannot be listened on ({error.strerror or error}); expected a "
                "free address; choose another port"
            ) from error
        signals = self._signals()
        watchers = [asyncio.create_task(self._watch_clients())]
        if self.settings.watch:
            watchers.append(asyncio.create_task(self._watch()))
        try:
            self.port = server.sockets[0].getsockname()[1]
            if self.token is None and not access.loopback(host):
                log.warning(
                    "listening on %s without a token: anyone who reaches it can use it; give "
                    "--token-file",
                    host,
                )
            if announce is not None:
                announce(f"{self.scheme}://{host}:{self.port}")
            self.ready.set()
            await self._stopping.wait()
            await self._drain()
        finally:
            for watcher in watchers:
                watcher.cancel()
            server.close(code=GOING_AWAY, reason="server ends")
            await server.wait_closed()
            for number in signals:
                self._loop.remove_signal_handler(number)

    def _signals(self) -> list[signal.Signals]:
        assert self._loop is not None and self._stopping is not None
        if threading.current_thread() is not threading.main_thread():
            return []
        needs_posix("ending a server by signals")
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._signalled, number)
        if self.artifact is None:
            return [signal.SIGTERM, signal.SIGINT]
        self._loop.add_signal_handler(signal.SIGHUP, self.reload)
        return [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]

    def _signalled(self, number: int) -> None:
        """The first one drains, a second one ends the process at once."""
        assert self._stopping is not None
        if self._stopping.is_set():
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self._stopping.set()

    async def _drain(self) -> None:
        """Answer requests in flight, refuse new connections (see `Pages`), close; what takes too
        long is given up.
        """
        self.draining = True
        end = time.perf_counter() + self.settings.drain_seconds
        for session in self.sessions.all():
            if not session.busy:
                asyncio.ensure_future(session.connection.close(GOING_AWAY, "server ends"))
        while len(self.sessions) and time.perf_counter() < end:
            await asyncio.sleep(0.01)
        if given_up := self._answers.give_up():
            log.warning(
                "%d requests were not answered within %g s and are given up",
                given_up,
                self.settings.drain_seconds,
            )

    # ---- policy ----------------------------------------------------------------------------------
    def _acting(self, policy: DiffusionPolicy) -> ActingPolicy:
        """What computes the policy's actions."""
        if self.settings.engine == "torch":
            return policy
        from alltrades.policies.onnx.export import compiled

        return compiled(policy)

    def _adopt(self, policy: DiffusionPolicy, digest: str) -> None:
        self._answers.adopt(policy, digest)
        self._metadata = pack(self.metadata())

    async def _reload(self) -> bool:
        assert self._loop is not None and self.artifact is not None
        async with self._reloading:
            device = str(next(self.policy.parameters()).device)
            try:
                policy = await self._loop.run_in_executor(
                    None, load_successor, self.artifact, self.policy, device
                )
                digest = await self._loop.run_in_executor(
                    None, policy.digest
                )  # milliseconds: not in the way of requests
                if digest == self.digest:
                    return True
                acting = await self._loop.run_in_executor(None, self._acting, policy)
                sizes = await self._loop.run_in_executor(
                    None, stable_sizes, acting, self._batcher.batch
                )
                await asyncio.wrap_future(
                    self._batcher.call(lambda: self._batcher.replace(acting, sizes))
                )
            except Exception as error:
                line = printable(" ".join(str(error).split()) or type(error).__name__, 300)
                log.warning("reload refused, the old policy goes on: %s", line)
                self.metrics.count("reloads", outcome="refused")
                self.events.add("reload refused", line)
                return False
            self._adopt(policy, digest)
            log.warning("reloaded: policy %s", self.digest)
            self.metrics.count("reloads", outcome="taken")
            self.events.add("reload", f"policy {self.digest}")
            return True

    async def _watch(self) -> None:
        assert self.artifact is not None
        while True:
            await asyncio.sleep(WATCH)
            now = stamp(self.artifact)
            if now is not None and now != self._seen:
                await self._reload()
            self._seen = now

    def _unforeseen(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What the event loop cannot hand to anybody; too many connections are no traceback."""
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            what = f"connections wait, as the system has no room for more ({error.strerror})"
            return self.notices.add(f"port {self.port}", what)
        loop.default_exception_handler(context)

    # ---- clients ---------------------------------------------------------------------------------
    async def _watch_clients(self) -> None:
        """Free the lanes of clients that say nothing, and of those that take no replies."""
        idle = self.settings.idle_seconds
        while True:
            await asyncio.sleep(min(WATCH, idle / 4) if idle else WATCH)
            now = time.perf_counter()
            for session in self.sessions.all():
                connection = session.connection
                if session.sending and now - session.sending > UNREAD:
                    self.notices.add(session.address, f"replies not taken within {UNREAD:g} s")
                    connection.transport.abort()
                elif idle and not session.busy and now - (session.seen or session.since) > idle:
                    self.notices.add(session.address, f"clients without a request for {idle:g} s")
                    self._leave(session)
                    reason = f"no request for {idle:g} s"
                    asyncio.ensure_future(connection.close(GOING_AWAY, reason))

    def _leave(self, session: Session) -> None:
        if not session.over:
            self.sessions.close(session)
            self.events.add("disconnect", session.address, session.id)

    async def _handle(self, connection: Any) -> None:
        if connection.request.path.startswith(LIVE):
            return await self._pages.live(connection)
        address = str((connection.remote_address or ["local"])[0])
        session = self.sessions.open(address, connection)
        if session is None:  # several came through the door at once
            return await connection.close(TRY_AGAIN_LATER, "too many clients")
        self.metrics.count("connections")
        self.events.add("connect", address, session.id)
        try:
            await connection.send(self._metadata)
            async for message in connection:
                if session.over:
                    return
                start = time.perf_counter()
                session.busy = True
                reply = await self._answers.reply(session, message, start)
                session.sending = time.perf_counter()
                await connection.send(reply)
                end = time.perf_counter()
                session.busy, session.sending, session.previous = False, 0.0, end - start
                if self.draining:
                    return await connection.close(GOING_AWAY, "server ends")
        except self._closed as error:
            log.info("connection ended: %s", printable(str(error)))
        finally:
            self._leave(session)


def serve_forever(
    policy: DiffusionPolicy,
    settings: ServerSettings | None = None,
    artifact: Path | str | None = None,
    *,
    announce: Callable[[str], None] | None = None,
) -> None:
    """Serve `policy` until SIGTERM or SIGINT; see `PolicyServer`."""
    PolicyServer(policy, settings, artifact).run(announce)
