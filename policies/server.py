"""Policy server: one policy, any number of clients over websockets, each with an episode of its own.

The protocol is that of the public openpi-client package: on connecting a client gets one message of metadata; then
every request {"observation": ...} is answered by {"actions": (execute, action_dim), "server_timing": {...}}, or by a
text frame that says why it was refused. GET /healthz answers 200. The server has no authentication and listens on the
loopback interface unless told otherwise; requests from web pages (with an Origin header) are refused.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any

import numpy as np

from alltrades.data.errors import UserError, nearest
from alltrades.policies.client import MAX_MESSAGE, pack, require, unpack
from alltrades.policies.controller import Controller
from alltrades.policies.policy import DiffusionPolicy

log = logging.getLogger(__name__)

PROTOCOL = 1
KEYS = ("observation", "observation/state", "environment", "seed", "reset")
MAX_FRAMES = 1024  # observations in one request


class Conversation:
    """State of one client: its episode's history and noise. A refused request changes nothing."""

    def __init__(self, policy: DiffusionPolicy, guard: bool = True) -> None:
        self.policy = policy
        self.controller = Controller(policy, lanes=1, guard=guard)
        self.environment: str | None = policy.environments[0].id if len(policy.environments) == 1 else None
        self._running = False

    def answer(self, request: Any) -> dict[str, Any]:
        """One request -> one reply; raises UserError for a request that does not make sense.

        Keys: "observation" or "observation/state" (obs_dim,), or (k, obs_dim) with every frame since the last request;
        "environment", the id, needed once where the policy has several; "reset": true starts an episode, as does
        another environment; "seed" of the episode's noise, read where an episode starts.
        """
        if not isinstance(request, dict):
            raise UserError(f"request is a {type(request).__name__}; expected a map with 'observation'")
        for key in request:
            if key not in KEYS:
                hint = nearest(key, list(KEYS)) if isinstance(key, str) else ""
                raise UserError(f"request has the key {str(key)[:40]!r}; expected {', '.join(KEYS)}{hint}")
        environment = request.get("environment", self.environment)
        if not isinstance(environment, str):
            raise UserError("request names no environment and the policy has several; expected 'environment' in the "
                            f"first request, one of {', '.join(e.id for e in self.policy.environments[:12])}")
        reset, seed = request.get("reset", False), request.get("seed")
        if not isinstance(reset, (bool, np.bool_)):
            raise UserError(f"'reset' is a {type(reset).__name__}; expected true or false")
        whole = isinstance(seed, (int, np.integer)) and not isinstance(seed, bool)
        if seed is not None and not (whole and 0 <= seed < 2**63):
            raise UserError("'seed' is not an integer in [0, 2^63); expected one, or leave it out")
        index = self.policy.environment_index(environment)
        frames = self._frames(request, self.policy.environments[index].obs_dim, environment)
        if reset or not self._running or environment != self.environment:
            self.controller.reset(environment=environment, seed=None if seed is None else int(seed))
            self.environment, self._running = environment, True
        return {"actions": self.controller.plan({0: frames})[0]}

    def _frames(self, request: dict, dim: int, environment: str) -> np.ndarray:
        given = [request[key] for key in KEYS[:2] if key in request]
        if len(given) != 1:
            raise UserError(f"request has {len(given)} observations; expected one, under '{KEYS[0]}' or '{KEYS[1]}'")
        try:
            values = np.asarray(given[0])
        except ValueError:
            values = np.empty(0, dtype=object)
        if values.dtype.kind not in "biuf":
            raise UserError(f"observation of dtype {values.dtype}; expected numbers")
        frames = values[None] if values.ndim == 1 else values
        if frames.ndim != 2 or frames.shape[1] != dim or not 1 <= len(frames) <= MAX_FRAMES:
            raise UserError(f"observation of shape {values.shape}; expected ({dim},) or (k, {dim}) for '{environment}'")
        with np.errstate(over="ignore"):
            frames = frames.astype(np.float32)
        if not np.isfinite(frames).all():
            raise UserError("observation is not finite; expected finite numbers; check the sensor")
        return frames


class PolicyServer:
    """`run()` blocks until `stop()`, SIGTERM or SIGINT, then closes the connections and returns.

    Args:
        policy: what is served; called by one thread at a time.
        host, port: where to listen; port 0 takes a free one, which is then in `port`.
        guard: keep actions finite and inside the environment's box and rate.
        max_message: bytes; a client that sends more is disconnected.
    """

    def __init__(self, policy: DiffusionPolicy, host: str = "127.0.0.1", port: int = 8000, *, guard: bool = True,
                 max_message: int = MAX_MESSAGE) -> None:
        self._asyncio_server = require("websockets.asyncio.server")
        self._closed = require("websockets.exceptions").ConnectionClosed
        require("msgpack")
        self.policy, self.host, self.port = policy, host, port
        self._guard, self._max_message = guard, max_message
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="policy")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self.ready = threading.Event()

    def metadata(self) -> dict[str, Any]:
        """What a client learns on connecting; vectors as lists, rates in Hz."""
        policy = self.policy
        environments = [{"id": e.id, "obs_dim": e.obs_dim, "action_dim": e.action_dim, "action_low": list(e.action_low),
                         "action_high": list(e.action_high), "control_hz": e.control_hz} for e in policy.environments]
        return {"server": "alltrades", "protocol": PROTOCOL, "policy": policy.digest(), "environments": environments,
                "history": policy.history, "horizon": policy.horizon, "execute": policy.execute}

    def run(self, announce: Callable[[str], None] | None = None) -> None:
        """Serve until stopped; `announce` gets the address once clients can connect.

        Raises UserError when the address cannot be used.
        """
        try:
            asyncio.run(self._serve(announce))
        finally:
            self._thread.shutdown(wait=True)

    def stop(self) -> None:
        """End `run()`, from any thread."""
        if self._loop is not None and self._stopping is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)

    async def _serve(self, announce: Callable[[str], None] | None) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        self._metadata = pack(self.metadata())
        await self._loop.run_in_executor(self._thread, self._warm_up)
        signals = (signal.SIGTERM, signal.SIGINT) if threading.current_thread() is threading.main_thread() else ()
        for number in signals:
            self._loop.add_signal_handler(number, self._stopping.set)
        try:
            server = await self._asyncio_server.serve(
                self._handle, self.host, self.port, compression=None, max_size=self._max_message, origins=[None],
                process_request=_health)
        except OSError as error:
            raise UserError(f"{self.host}:{self.port} cannot be listened on ({error.strerror or error}); expected a "
                            "free address; choose another port") from error
        try:
            self.port = server.sockets[0].getsockname()[1]
            if self.host not in ("127.0.0.1", "localhost", "::1"):
                log.warning("listening on %s: anyone who reaches it can use it, there is no authentication", self.host)
            log.info("serving at ws://%s:%d", self.host, self.port)
            if announce is not None:
                announce(f"ws://{self.host}:{self.port}")
            self.ready.set()
            await self._stopping.wait()
        finally:
            server.close()
            await server.wait_closed()
            for number in signals:
                self._loop.remove_signal_handler(number)

    def _warm_up(self) -> None:
        """The first call of a network is slow, and a policy that cannot run should not be announced."""
        first = self.policy.environments[0]
        Conversation(self.policy).answer({"environment": first.id, "observation": np.zeros(first.obs_dim)})

    async def _handle(self, connection: Any) -> None:
        assert self._loop is not None
        conversation = Conversation(self.policy, self._guard)
        total = 0.0
        try:
            await connection.send(self._metadata)
            async for message in connection:
                start = time.perf_counter()
                reply = await self._loop.run_in_executor(self._thread, self._reply, conversation, message, total)
                await connection.send(reply)
                total = time.perf_counter() - start
        except self._closed as error:
            log.info("connection ended: %s", error)
        if any(conversation.controller.refusals.values()):
            log.warning("actions replaced by the guard: %s", conversation.controller.refusals)

    def _reply(self, conversation: Conversation, message: bytes | str, previous: float) -> bytes | str:
        """Runs in the policy's thread. Text is an error, in this protocol."""
        try:
            if isinstance(message, str):
                raise UserError("text frame; expected a binary frame of msgpack")
            request = unpack(message)
            start = time.perf_counter()
            answer = conversation.answer(request)
            timing = {"infer_ms": 1e3 * (time.perf_counter() - start)}
            if previous > 0:
                timing["prev_total_ms"] = 1e3 * previous
            return pack({**answer, "server_timing": timing})
        except (UserError, ValueError) as error:
            log.warning("request refused: %s", error)
            return f"refused: {error}"
        except Exception as error:
            log.exception("request failed")
            return f"failed inside the server: {type(error).__name__}; see its log"


def _health(connection: Any, request: Any) -> Any:
    if request.path == "/healthz":
        return connection.respond(HTTPStatus.OK, "OK\n")
    return None


def serve_forever(policy: DiffusionPolicy, host: str = "127.0.0.1", port: int = 8000, *, guard: bool = True,
                  max_message: int = MAX_MESSAGE, announce: Callable[[str], None] | None = None) -> None:
    """Serve `policy` until SIGTERM or SIGINT; see `PolicyServer`."""
    PolicyServer(policy, host, port, guard=guard, max_message=max_message).run(announce)
