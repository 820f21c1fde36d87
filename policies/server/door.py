"""Connections before they are robots: half-open ones, slow ones, and those that speak no HTTP."""

from __future__ import annotations

import asyncio
import logging
import time
from http import HTTPStatus
from typing import Any

from alltrades.policies.client.messages import printable, require
from alltrades.policies.server.notices import Notices

OPEN_SECONDS = 10.0  # for a whole request to arrive
HALF_OPEN = 256  # connections without a request at once; beyond that the oldest is dropped
PROBES = 10  # connections in a minute that say nothing and leave, such as health checks
MALFORMED = {  # by what the parser raises
    "RequestLineTooLong": HTTPStatus.REQUEST_URI_TOO_LONG,
    "HeaderLineTooLong": HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    "TooManyHeaders": HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    "SecurityError": HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
}

BAD_REQUEST = HTTPStatus.BAD_REQUEST

_ServerConnection: Any = require("websockets.asyncio.server").ServerConnection
_ServerProtocol: Any = require("websockets.server").ServerProtocol


def quiet() -> logging.Logger:
    """For the websockets package: handshakes that fail are a client's affair, and no traceback in
    the operator's terminal.
    """
    logger = logging.getLogger("alltrades.websockets")
    logger.setLevel(logging.CRITICAL)
    return logger


class Door:
    """What a server knows of connections whose request has not arrived.

    Nobody may be kept out by those who connect and say nothing: a real request takes milliseconds,
    so that of too many half-open connections the oldest is no robot.
    """

    def __init__(self, notices: Notices) -> None:
        self.notices = notices
        self._half_open: dict[Arrival, float] = {}  # since when, oldest first

    def connection(self, *args: Any, **kwargs: Any) -> Arrival:
        """A connection of the websockets package that this door watches."""
        return Arrival(self, *args, **kwargs)

    def opened(self, arrival: Arrival) -> None:
        self._half_open[arrival] = time.monotonic()
        if len(self._half_open) > HALF_OPEN:
            oldest = next(iter(self._half_open))
            self.closed(oldest, dropped=True)
            oldest.transport.abort()

    def entered(self, arrival: Arrival) -> None:
        """A request has arrived, whatever it asks for."""
        self._half_open.pop(arrival, None)

    def closed(self, arrival: Arrival, dropped: bool = False) -> None:
        """A connection ended; noted where no request had arrived."""
        since = self._half_open.pop(arrival, None)
        if since is None:
            return
        slow = dropped or time.monotonic() - since > 0.9 * OPEN_SECONDS
        self.notices.add(
            arrival.address, "connections without a request", least=1 if slow else PROBES
        )

    def malformed(self, arrival: Arrival, error: Exception) -> HTTPStatus:
        """What arrived is no request: how it is answered."""
        self.entered(arrival)
        self.notices.add(arrival.address, "connections with something that is no HTTP request")
        kinds = [type(e).__name__ for e in (error, error.__cause__)]
        return next((MALFORMED[kind] for kind in kinds if kind in MALFORMED), BAD_REQUEST)


class Arrival(_ServerConnection):
    """A connection that answers with 400, 414 or 431 where the websockets package only hangs up."""

    def __init__(self, door: Door, protocol: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(protocol, *args, **kwargs)
        self._door = door
        self._scout: Any = _ServerProtocol(logger=quiet())  # reads what comes first a second time
        self.address = "local"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.address = printable(str((transport.get_extra_info("peername") or ["local"])[0]))
        self._door.opened(self)

    def data_received(self, data: bytes) -> None:
        if self._scout is not None:
            self._scout.receive_data(data)
            error = self._scout.handshake_exc
            if error is not None:
                return self._refuse(error)
            if self._scout.events_received():
                self._door.entered(self)
                self._scout = None
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._door.closed(self)
        super().connection_lost(exc)

    def _refuse(self, error: Exception) -> None:
        status, text = self._door.malformed(self, error), "expected a websocket or GET over HTTP\n"
        head = f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\n"
        head += f"Content-Type: text/plain\r\nContent-Length: {len(text)}\r\n\r\n"
        self.transport.write((head + text).encode())
        self.transport.close()
