"""What the server answers over HTTP: health, metrics, the operator's page and its live connection.

A browser sends an Origin header with every websocket, so that connections with one are refused,
whatever page they come from; only the operator's own page may open the live connection, with the
key that the page was given.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import secrets
import time
from http import HTTPStatus
from importlib import resources
from typing import Any, Protocol
from urllib.parse import parse_qs

from alltrades.data.actions import ActionSpec
from alltrades.data.interface import Interface
from alltrades.policies.acting import ActingPolicy
from alltrades.policies.client.messages import require
from alltrades.policies.server import access
from alltrades.policies.server.events import Events
from alltrades.policies.server.metrics import CONTENT_TYPE, Metrics
from alltrades.policies.server.session import Sessions
from alltrades.policies.server.settings import ServerSettings

LIVE = "/dashboard/live"
PERIOD = 0.2  # seconds between two states on the live connection
WATCHERS = 16  # pages open at once
COMMANDS = ("stop", "resume")


class Served(Protocol):
    """What the pages tell of a server, and ask of it."""

    settings: ServerSettings
    scheme: str
    token: str | None
    draining: bool
    metrics: Metrics
    sessions: Sessions
    events: Events

    @property
    def policy(self) -> ActingPolicy: ...

    @property
    def digest(self) -> str: ...

    @property
    def held(self) -> bool: ...

    @property
    def healthy(self) -> bool: ...

    @property
    def finite(self) -> bool: ...

    def limits(self, info: Interface) -> ActionSpec: ...

    def hold(self, held: bool = True) -> None: ...


class Pages:
    """Answers to HTTP requests of one server."""

    def __init__(self, server: Served) -> None:
        self._server = server
        self._key = secrets.token_urlsafe(24)
        self._watchers = 0

    def answer(self, connection: Any, request: Any) -> Any:
        """The response to an HTTP request, or None for a robot or a live page that may open a
        websocket.
        """
        server, path = self._server, request.path.partition("?")[0]
        if path == "/healthz":
            if server.healthy and server.finite:
                return connection.respond(HTTPStatus.OK, "OK\n")
            found = "draining" if server.draining else "failed"
            if server.healthy:
                found = "answers of the policy are not finite"
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, f"{found}\n")
        origin, host = (access.one_header(request.headers, name) for name in ("Origin", "Host"))
        live = path == LIVE and server.settings.dashboard
        if origin is not None and not (
            live
            and access.own_origin(origin, host or "", server.settings.host, server.scheme == "wss")
        ):
            return connection.respond(HTTPStatus.FORBIDDEN, "refused: request of a web page\n")
        if live:
            return self._refuse_page(connection, request, origin)
        if server.token is not None and not access.token_fits(
            server.token, access.one_header(request.headers, "Authorization")
        ):
            response = connection.respond(
                HTTPStatus.UNAUTHORIZED, "refused: the token is missing or wrong\n"
            )
            response.headers["WWW-Authenticate"] = (
                'Basic realm="alltrades: any name, the token as password"'
            )
            return response
        dashboard = path == "/dashboard" and server.settings.dashboard
        if path == "/metrics" or dashboard:
            if not access.own_name(host or "", server.settings.host):
                return connection.respond(
                    HTTPStatus.FORBIDDEN,
                    "refused: unknown host name; open the page by its address\n",
                )
            if dashboard:
                return self._page(connection)
            return _typed(connection, self.metrics(), CONTENT_TYPE)
        if path != "/":
            return connection.respond(
                HTTPStatus.NOT_FOUND, "nothing here: /healthz, /metrics, and the websocket at /\n"
            )
        return self._refuse_robot(connection)

    def _refuse_robot(self, connection: Any) -> Any:
        server, most = self._server, self._server.settings.max_per_address
        if server.draining:
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "refused: server ends\n")
        if server.sessions.full:
            return connection.respond(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"refused: {len(server.sessions)} clients are connected; raise --max-clients\n",
            )
        address = str((connection.remote_address or ["local"])[0])
        if most is not None and server.sessions.at(address) >= most:
            return connection.respond(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"refused: {most} clients of this address are connected; raise --max-per-address\n",
            )
        return None

    def _refuse_page(self, connection: Any, request: Any, origin: str | None) -> Any:
        key = parse_qs(request.path.partition("?")[2]).get("key", [""])[0]
        if origin is None or not hmac.compare_digest(key.encode(), self._key.encode()):
            return connection.respond(HTTPStatus.FORBIDDEN, "refused: open the page again\n")
        if self._server.draining or self._watchers >= WATCHERS:
            return connection.respond(
                HTTPStatus.SERVICE_UNAVAILABLE, "refused: too many pages, or the server ends\n"
            )
        return None

    def _page(self, connection: Any) -> Any:
        nonce = secrets.token_urlsafe(12)
        text = (
            resources.files("alltrades.policies.server")
            .joinpath("dashboard.html")
            .read_text(encoding="utf-8")
        )
        response = _typed(
            connection,
            text.replace("{{nonce}}", nonce).replace("{{key}}", self._key),
            "text/html; charset=utf-8",
        )
        response.headers["Content-Security-Policy"] = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; "
            "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'none'"
        )
        response.headers["Cache-Control"] = "no-store"
        response.headers["Referrer-Policy"] = "no-referrer"
        return response

    # ---- content ---------------------------------------------------------------------------------
    def metrics(self) -> str:
        """All metrics as text."""
        server = self._server
        gauges = {
            "alltrades_clients": ("connected clients", float(len(server.sessions))),
            "alltrades_held": ("1 while every robot is to hold", float(server.held)),
            "alltrades_draining": ("1 while the server ends", float(server.draining)),
        }
        return server.metrics.render(gauges, {"policy": server.digest})

    def state(self) -> dict[str, Any]:
        """What the operator's page shows, in plain values."""
        server, now = self._server, time.perf_counter()
        limits = {e.id: server.limits(e) for e in server.policy.environments}
        bounds = {
            name: [[_finite(x) for x in bound] for bound in found.box]
            for name, found in limits.items()
        }
        return {
            "policy": server.digest,
            "held": server.held,
            "draining": server.draining,
            "time": time.time(),
            "clients": [s.status(now) for s in server.sessions.all()],
            "events": server.events.latest(),
            "bounds": {
                s.environment: bounds[s.environment]
                for s in server.sessions.all()
                if s.environment in bounds
            },
            "totals": {
                "answered": server.metrics.value("requests", outcome="answered"),
                "refused": server.metrics.value("requests", outcome="refused"),
                "starved": server.metrics.value("starved"),
                "guarded": server.metrics.value("guard_refusals"),
            },
        }

    async def live(self, connection: Any) -> None:
        """The live connection of one page: states out, `stop` and `resume` in."""
        self._watchers += 1
        sending = asyncio.create_task(self._send_states(connection))
        try:
            async for message in connection:
                if message in COMMANDS:
                    self._server.hold(message == "stop")
                    await connection.send(json.dumps(self.state()))
        except require("websockets.exceptions").ConnectionClosed:
            pass
        finally:
            self._watchers -= 1
            sending.cancel()

    async def _send_states(self, connection: Any) -> None:
        while True:
            try:
                await connection.send(json.dumps(self.state()))
            except require("websockets.exceptions").ConnectionClosed:
                return
            await asyncio.sleep(PERIOD)


def _finite(value: float) -> float | None:
    return float(value) if abs(value) < 1e30 else None


def _typed(connection: Any, text: str, kind: str) -> Any:
    response = connection.respond(HTTPStatus.OK, text)
    del response.headers["Content-Type"]
    response.headers["Content-Type"] = kind
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response
