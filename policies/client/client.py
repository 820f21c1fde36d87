"""Client of the policy server; needs neither torch nor the simulators."""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, TypeVar

from alltrades.errors import UserError, nearest
from alltrades.policies.client.messages import (
    FACTS,
    MAX_MESSAGE,
    pack,
    printable,
    require,
    unpack,
    wire_seed,
)
from alltrades.system.streams import checked_seed

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0  # seconds between two tries to connect again, doubled each
LATER = (429, 503)  # answers of a server that may let a client in later
log = logging.getLogger(__name__)
T = TypeVar("T")


class NotNow(UserError):
    """No server answers, or it has no room: another try may succeed."""


class ConnectionLost(UserError):
    """A connection ended with a request that was not answered."""


def with_backoff(connect: Callable[[], T], address: str, seconds: float) -> T:
    """What `connect` returns: tried again with pauses of 0.1, 0.2, 0.4 .. 5 s while it raises
    `NotNow`, for `seconds` at most. Says what it does.
    """
    end, pause, tries = time.monotonic() + seconds, FIRST_PAUSE, 1
    while True:
        try:
            found = connect()
        except NotNow as error:
            if time.monotonic() + pause > end:
                raise NotNow(f"{error}; given up after {tries} tries in {seconds:g} s") from error
            if tries == 1:
                log.warning("%s; trying again for up to %g s", error, seconds)
            time.sleep(pause)
            pause, tries = min(2 * pause, LONGEST_PAUSE), tries + 1
        else:
            log.warning("%s: connected again at try %d", address, tries)
            return found


class PolicyClient:
    """One connection to `alltrades serve`: `infer` asks for a chunk of actions, `reset` starts an
    episode.

    The server keeps the episode's history for as long as the connection lives. Once it is lost, the
    episode is over: `infer` raises, and goes on doing so, until `reset` begins another one; then
    the client connects again, with growing pauses for `timeout` seconds at most, and says so.

    Args:
        host, port: where the server listens.
        timeout: seconds to wait for the connection and for each reply.
        token: the server's secret, where it wants one.
        tls: connect over TLS and check the server's certificate.
        certificate: PEM file of the certificate (or its authority) to trust, instead of the
            system's; means `tls`.
        environment: id of the first episode's; it can be left out where the policy has one.

    Raises UserError when no server answers, when it does not let this client in, and for an
    environment that its policy does not know.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 8000,
        timeout: float = 10.0,
        *,
        token: str | None = None,
        tls: bool = False,
        certificate: Path | str | None = None,
        environment: str | None = None,
    ) -> None:
        self._connect = require("websockets.sync.client").connect
        self._broken = require("websockets.exceptions").WebSocketException
        self._secure, self._certificate = tls or certificate is not None, certificate
        self.address = f"{'wss' if self._secure else 'ws'}://{host}:{port}"
        self._timeout, self._token = timeout, token
        self._start: dict[str, Any] = {}
        self._environment: str | None = None  # of the episode
        self._running = False  # the server has a history of this episode
        self._socket, self.metadata = self._open()
        if environment is not None:
            try:
                self.reset(environment=environment)
            except UserError:
                self.close()
                raise

    def _open(self) -> tuple[Any, dict[str, Any]]:
        """A new connection, and what the server says of its policy."""
        try:
            socket = self._connect(
                self.address,
                compression=None,
                proxy=None,
                open_timeout=self._timeout,
                max_size=MAX_MESSAGE,
                ssl=ssl.create_default_context(cafile=self._certificate) if self._secure else None,
                additional_headers=None
                if self._token is None
                else {"Authorization": f"Bearer {self._token}"},
            )
            metadata = unpack(socket.recv(timeout=self._timeout))
        except require("websockets.exceptions").InvalidStatus as error:
            status = error.response.status_code
            words = printable(
                bytes(error.response.body or b"").decode(errors="replace").strip()[:200]
            )
            kind = NotNow if status in LATER else UserError
            raise kind(
                f"{self.address}: the server answers {status}: {words or 'no reason given'}"
            ) from error
        except (OSError, ValueError, self._broken) as error:
            raise NotNow(
                f"{self.address}: no policy server answers ({printable(str(error))}); start one "
                "with `alltrades serve`"
            ) from error
        if not isinstance(metadata, dict):
            raise UserError(f"{self.address}: no policy server; expected one of `alltrades serve`")
        return socket, metadata

    def reset(self, environment: str | None = None, seed: int | None = None) -> None:
        """Let the next `infer` start an episode: empty history, the given environment, or the one
        before, and the given noise seed, any integer. Raises UserError for an environment that the
        policy does not know.
        """
        known = self.metadata.get("environments")
        if environment is not None and isinstance(known, list):
            ids = [str(e.get("id")) for e in known if isinstance(e, dict)]
            if environment not in ids:
                raise UserError(
                    f"{self.address}: the server's policy does not know environment "
                    f"{str(environment)[:100]!r}; expected one of {', '.join(ids[:12])}"
                    f"{nearest(str(environment)[:100], ids)}"
                )
        self._start = {"reset": True}
        self._environment = self._environment if environment is None else environment
        if self._environment is not None:
            self._start["environment"] = self._environment
        if seed is not None:
            self._start["seed"] = checked_seed(seed)

    def infer(self, obs: dict[str, Any]) -> dict[str, Any]:
        """{"observation/state": (D,), "observation/images/front": (H, W, 3) uint8, "prompt": "push
        the cup", ...} -> {"actions": (n_action_steps, action_dim) float32, "held": False, ...}.

        The fields are those of the environment in `metadata`; they may also stand in a map under
        "observation", which is the numbers themselves where the only field is a state.
        `alltrades.policies.server` says what else a request and a reply may hold. While "held" is
        true the operator has stopped the robots: the actions lead to the environment's stop action,
        or repeat the last one where it has none.

        Raises UserError with the server's words when it refuses the message, and when it does not
        answer, or no longer: see the class.
        """
        self.send(obs)
        return self.receive()

    def send(self, obs: dict[str, Any]) -> None:
        """The first half of `infer`."""
        request = {**obs, **self._start}
        if "environment" in obs:  # over that of the episode before, which a reset goes on with
            request["environment"] = obs["environment"]
        if request.get("seed") is not None:
            request["seed"] = wire_seed(request["seed"])
        begins = bool(request.get("reset")) or not self._running
        if self._socket is not None:
            try:
                self._socket.send(pack(request))
            except (OSError, self._broken) as error:
                if not begins:
                    self._lost(error)
                self._drop()
            else:
                self._environment = request.get("environment", self._environment)
                return
        elif not begins:
            self._lost(ConnectionError("the connection was lost before"))
        self._again()
        if self._environment is not None:  # which the new connection was not told
            request.setdefault("environment", self._environment)
        try:
            self._socket.send(pack(request))
        except (OSError, self._broken) as error:
            self._lost(error)
        self._environment = request.get("environment", self._environment)

    def receive(self) -> dict[str, Any]:
        """The second half of `infer`: the reply to the oldest request that has none."""
        if self._socket is None:
            self._lost(ConnectionError("the connection was lost before"))
        try:
            reply = self._socket.recv(timeout=self._timeout)
        except (OSError, self._broken) as error:
            self._lost(error)
        if isinstance(reply, str):
            raise UserError(printable(reply, 400))
        self._start, self._running = {}, True  # a refused message has started nothing
        return unpack(reply)

    def _again(self) -> None:
        """Connect again, to a policy that is like the one before."""
        socket, metadata = with_backoff(self._open, self.address, self._timeout)
        changed = [
            name
            for name in ("environments", *FACTS)
            if metadata.get(name) != self.metadata.get(name)
        ]
        if changed:
            socket.close()
            raise UserError(
                f"{self.address}: the server has another policy than before, with other "
                f"{', '.join(changed)}; expected the same; make a new client"
            )
        self._socket, self.metadata, self._running = socket, metadata, False

    def _lost(self, error: Exception) -> NoReturn:
        self._drop()  # a late reply must not be taken for that of the next request
        kind = UserError if isinstance(error, TimeoutError) else ConnectionLost
        raise kind(
            f"{self.address}: no answer ({printable(str(error) or type(error).__name__)}); "
            "expected a running server; the episode's history is lost: call reset() to connect "
            "again and begin another one"
        ) from error

    def _drop(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    def close(self) -> None:
        """End the connection."""
        self._drop()

    def __enter__(self) -> PolicyClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
