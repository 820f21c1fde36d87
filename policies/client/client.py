"""Client of the policy server; needs neither torch nor the simulators."""

from __future__ import annotations

import ssl
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from alltrades.errors import UserError
from alltrades.policies.client.messages import MAX_MESSAGE, pack, require, unpack


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
                f"{self.address}: no policy server answers ({error}); start one with `alltrades "
                "serve`"
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
        """{"observation/state": (D,), "observation/images/front": (H, W, 3) uint8, "prompt": "push
        the cup", ...} -> {"actions": (n_action_steps, action_dim) float32, "held": False, ...}.

        The fields are those of the environment in `metadata`; they may also stand in a map under
        "observation", which is the numbers themselves where the only field is a state.
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
