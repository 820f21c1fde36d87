"""Client of the policy server, and the messages the two exchange; needs neither torch nor the
simulators.

A message is one binary websocket frame of msgpack. An array is the map {b"__ndarray__": True,
b"data": its bytes, b"dtype": such as "<f4", b"shape": its shape}, a NumPy scalar {b"__npgeneric__":
True, b"data": value, b"dtype": ...}. This is the format of the public openpi-client package, so its
clients work with this server. A text frame from the server is an error. Nothing here unpickles, and
arrays of objects cannot be expressed.
"""

from __future__ import annotations

import math
import re
import ssl
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, NoReturn

import numpy as np

from alltrades.errors import MissingExtra, UserError

MAX_MESSAGE = 1 << 20  # bytes, either way
SHORTEST_TOKEN = 16
FACTS = (
    "n_obs_steps",
    "horizon",
    "n_action_steps",
    "draws",
    "obs_dim",
    "action_dim",
)  # of a policy, which a server promises its clients
_DTYPE = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248])")  # booleans, integers, floats


def require(name: str) -> ModuleType:
    """Import a package of the `serve` extra; raises UserError with the pip line when it is
    missing.
    """
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise MissingExtra(
            f"package {package} is not installed; expected the serve extra", "serve"
        ) from error


def read_token(path: Path) -> str:
    """The secret in a file, without white space at its ends; raises UserError when it is missing,
    short or not ASCII.
    """
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"token file {path} cannot be read ({error}); expected a text file with the secret"
        ) from error
    if (
        len(token) < SHORTEST_TOKEN
        or not token.isascii()
        or not token.isprintable()
        or " " in token
    ):
        raise UserError(
            f"token file {path} holds {len(token)} characters; expected at least {SHORTEST_TOKEN} "
            "printable ones "
            "without spaces, such as from `openssl rand -hex 32`"
        )
    return token


def pack(message: Any) -> bytes:
    """Message of plain values, NumPy scalars and arrays -> bytes; raises TypeError for anything
    else.
    """
    return require("msgpack").packb(message, default=_encode)


def unpack(data: bytes) -> Any:
    """Bytes -> message; raises ValueError for whatever is not exactly one well-formed message."""
    try:
        return require("msgpack").unpackb(data, object_hook=_decode, strict_map_key=True)
    except UserError:
        raise
    except (
        Exception
    ) as error:  # msgpack raises a dozen kinds, none of which the sender can tell apart
        raise ValueError(
            f"message of {len(data)} bytes cannot be read ({type(error).__name__}: {error})"
        ) from error


def _encode(value: Any) -> Any:
    if not isinstance(value, (np.ndarray, np.generic)):
        raise TypeError(
            f"{type(value).__name__} cannot be sent; expected numbers, text, lists, maps or NumPy "
            "arrays"
        )
    if not _DTYPE.fullmatch(value.dtype.str):
        raise TypeError(
            f"dtype {value.dtype} cannot be sent; expected booleans, integers or floats"
        )
    if isinstance(value, np.generic):
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    return {
        b"__ndarray__": True,
        b"data": value.tobytes(),
        b"dtype": value.dtype.str,
        b"shape": value.shape,
    }


def _decode(value: dict) -> Any:
    if b"__ndarray__" not in value and b"__npgeneric__" not in value:
        return value
    name, data = value[b"dtype"], value[b"data"]
    if not isinstance(name, str) or not _DTYPE.fullmatch(name):
        raise ValueError("array dtype; expected booleans, integers or floats")
    dtype = np.dtype(name)
    if b"__npgeneric__" in value:
        if not isinstance(data, (bool, int, float)):
            raise ValueError("scalar of text or bytes; expected a number")
        with np.errstate(over="ignore"):
            return dtype.type(data)
    shape = value[b"shape"]
    if (
        not isinstance(shape, list)
        or len(shape) > 8
        or not all(type(n) is int and n >= 0 for n in shape)
    ):
        raise ValueError("array shape; expected up to 8 sizes")
    if not isinstance(data, bytes) or math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError("array data; expected as many bytes as its shape holds")
    return np.frombuffer(data, dtype=dtype).reshape(shape)


class PolicyClient:
    """One connection to `alltrades serve`: `infer` asks for a chunk of actions, `reset` starts an
    episode.

    Args:
        host, port: where the server listens.
        timeout: seconds to wait for the connection and for each reply.
        token: the server's secret, where it wants one.
        tls: connect over TLS and check the server's certificate.
        certificate: PEM file of the certificate (or its authority) to trust, instead of the
            system's; means `tls`.

    Raises UserError when no server answers or it does not let this client in.
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
    ) -> None:
        connect = require("websockets.sync.client").connect
        secure = tls or certificate is not None
        self.address, self._timeout = f"{'wss' if secure else 'ws'}://{host}:{port}", timeout
        self._start: dict[str, Any] = {}
        try:
            self._socket = connect(
                self.address,
                compression=None,
                proxy=None,
                open_timeout=timeout,
                max_size=MAX_MESSAGE,
                ssl=ssl.create_default_context(cafile=certificate) if secure else None,
                additional_headers=None if token is None else {"Authorization": f"Bearer {token}"},
            )
            self.metadata: dict[str, Any] = unpack(self._socket.recv(timeout=timeout))
        except require("websockets.exceptions").InvalidStatus as error:
            words = bytes(error.response.body or b"").decode(errors="replace").strip()[:200]
            raise UserError(
                f"{self.address}: the server answers {error.response.status_code}: "
                f"{words or 'no reason given'}"
            ) from error
        except (OSError, ValueError, require("websockets.exceptions").WebSocketException) as error:
            raise UserError(
                f"{self.address}: no policy server answers ({error}); "
                "start one with `alltrades serve`"
            ) from error

    def reset(self, environment: str | None = None, seed: int | None = None) -> None:
        """Let the next `infer` start an episode: empty history, and the given environment and noise
        seed.
        """
        self._start = {"reset": True}
        if environment is not None:
            self._start["environment"] = environment
        if seed is not None:
            self._start["seed"] = seed

    def infer(self, obs: dict[str, Any]) -> dict[str, Any]:
        """{"observation": (obs_dim,), ...} -> {"actions": (n_action_steps, action_dim) float32,
        "held": False, ...}.

        `alltrades.policies.server` says what else a request and a reply may hold. While "held" is
        true the operator has stopped the robots: the actions lead to the environment's stop action,
        or repeat the last one where it has none.

        Raises UserError with the server's words when it refuses the message, or when it does not
        answer.
        """
        self.send(obs)
        return self.receive()

    def send(self, obs: dict[str, Any]) -> None:
        """The first half of `infer`."""
        message = pack({**obs, **self._start})
        try:
            self._socket.send(message)
        except (OSError, require("websockets.exceptions").WebSocketException) as error:
            self._lost(error)

    def receive(self) -> dict[str, Any]:
        """The second half of `infer`: the reply to the oldest request that has none."""
        try:
            reply = self._socket.recv(timeout=self._timeout)
        except (OSError, require("websockets.exceptions").WebSocketException) as error:
            self._lost(error)
        if isinstance(reply, str):
            raise UserError(reply)
        self._start = {}  # a refused message has started nothing
        return unpack(reply)

    def _lost(self, error: Exception) -> NoReturn:
        self.close()  # a late reply must not be taken for that of the next request
        raise UserError(
            f"{self.address}: no answer ({error}); expected a running server; connect again"
        ) from error

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> PolicyClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
