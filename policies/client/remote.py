"""A served policy as a policy: controllers drive it like one of their own process, and keep
history, noise and guard here.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from alltrades.data.fields import Observation
from alltrades.data.interface import Interface
from alltrades.data.text import text_features
from alltrades.errors import UserError
from alltrades.policies.acting import ActingPolicy
from alltrades.policies.client.client import ConnectionLost, PolicyClient, with_backoff
from alltrades.policies.client.messages import FACTS
from alltrades.policies.control.lane import texts_of

REMEMBERED = 4096  # texts
log = logging.getLogger(__name__)


class RemotePolicy(ActingPolicy):
    """The policy behind `alltrades serve`: `act` sends every row over a connection of its own, so
    that the server batches them.

    `RealTimeController(RemotePolicy(...))` acts asynchronously over the network,
    `Controller(RemotePolicy(...))` waits for every chunk; with the same seed both get the same
    noise as in-process. Their guard knows the server's limits. Give them `batch=1` per robot:
    padded rows would be sent too. Where the server limits rates, each robot needs a `RemotePolicy`
    of its own, as the server's guard takes what it sends over one connection for the motion of one
    robot. One thread at a time may call `act`.

    Args:
        host, port, timeout, token, tls, certificate: see `PolicyClient`. A call that takes longer
            than `timeout` seconds fails. A connection that ends is made again, with growing pauses
            for `timeout` seconds at most, which is logged, and the call is sent once more: history,
            noise and guard are here, so that the episode goes on. It fails where the server has
            another kind of policy by then.

    Raises UserError when no server answers, when it is of an older version, or does not let this
    client in.
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
        self._options: dict[str, Any] = {
            "host": host,
            "port": port,
            "timeout": timeout,
            "token": token,
            "tls": tls,
            "certificate": certificate,
        }
        self._clients: list[PolicyClient | None] = []
        self._texts: dict[bytes, str] = {}  # by their features
        self._said: dict[int, dict[str, str]] = {}  # last texts of each connection
        self._starting = False  # an episode has begun, and the server was not told
        first = PolicyClient(**self._options)
        self._address, self._lost = first.address, False  # all connections are gone
        self._clients.append(first)
        self.environments, numbers = self._described(first)
        self.n_obs_steps, self.horizon, self.n_action_steps = (
            numbers["n_obs_steps"],
            numbers["horizon"],
            numbers["n_action_steps"],
        )
        self.draws = numbers["draws"]
        self._digest = str(first.metadata.get("policy"))
        self.held = False  # the operator has stopped the robots

    def act(
        self,
        window: Mapping[str, np.ndarray],
        environment: np.ndarray,
        noise: np.ndarray,
        known: np.ndarray | None = None,
        keep: np.ndarray | None = None,
    ) -> np.ndarray:
        """Chunks (B, horizon, action_dim) float32; see `OnnxPolicy.act`. Raises UserError when the
        server does not answer, and for the features of a text that was not heard.
        """
        if self._starting:
            self._starting = False
            for client in self._clients:
                if client is not None:
                    client.reset()
        try:
            replies = self._ask(window, environment, noise, known, keep)
        except ConnectionLost as error:  # requests hold all that is asked: they can be sent again
            log.warning("%s", error)
            replies = self._ask(window, environment, noise, known, keep)
        self.held = bool(replies[0]["held"])
        out = np.zeros((len(replies), self.horizon, self.action_dim), np.float32)
        for row, reply in enumerate(replies):
            actions = np.asarray(reply["actions"], np.float32)
            expected = (self.horizon, self.environments[int(environment[row])].action_dim)
            if actions.shape != expected:
                raise UserError(
                    f"the server sent actions of shape {actions.shape}; expected {expected}"
                )
            out[row] = self.layout.pack_action(actions)
        return out

    def _ask(
        self,
        window: Mapping[str, np.ndarray],
        environment: np.ndarray,
        noise: np.ndarray,
        known: np.ndarray | None,
        keep: np.ndarray | None,
    ) -> list[dict[str, Any]]:
        """The server's replies to each row."""
        rows = range(len(environment))
        try:
            for row in rows:
                index = int(environment[row])
                info = self.environments[index]
                used = (
                    0
                    if keep is None
                    else int(np.flatnonzero(keep[row])[-1]) + 1
                    if keep[row].any()
                    else 0
                )
                observation = self._observation(index, window, row)
                request = {
                    "observation": observation,
                    "environment": info.id,
                    "noise": noise[row],
                    "known": np.zeros((0, info.action_dim), np.float32)
                    if known is None
                    else self.layout.action(index, known[row, :used]),
                }
                client, said = self._client(row), texts_of(observation)
                if self._said.get(row, said) != said:  # of another lane, or another episode
                    client.reset()
                self._said[row] = said
                client.send(request if keep is None else request | {"keep": keep[row, :used]})
            return [self._client(row).receive() for row in rows]
        except BaseException:
            self.close()  # replies that were not read would be taken for later ones
            raise

    def hear(self, text: str) -> None:
        key = text_features(text).tobytes()
        if key not in self._texts and len(self._texts) >= REMEMBERED:
            del self._texts[next(iter(self._texts))]
        self._texts[key] = text

    def _observation(self, index: int, window: Mapping[str, np.ndarray], row: int) -> Observation:
        """Fields of an environment in a row of a window."""
        out: Observation = {}
        for name, f in self.environments[index].observation.items():
            values = window[self.layout.fields[index][name]][row]
            if f.kind != "text":
                out[name] = values[..., : f.shape[-1]]
                continue
            said = self._texts.get(values.tobytes())
            if said is None:
                raise UserError(
                    f"the features of '{name}' are of no text that this policy was told of; "
                    "expected a call of hear(text) before"
                )
            out[name] = said
        return out

    def begin(self, lane: int) -> None:
        """An episode starts: the next call tells the server, whose guard then takes no motion from
        where the last one ended.

        Raises UserError for a second robot where the server limits rates.
        """
        if lane and any(e.action.rate is not None for e in self.environments):
            raise UserError(
                f"lane {lane} of a remote policy whose server limits rates; expected one robot; "
                "make a RemotePolicy for each"
            )
        self._starting = True

    def digest(self) -> str:
        """Digest of the policy that was served when this client connected."""
        return self._digest

    def close(self) -> None:
        """End the connections; the next call opens new ones."""
        for client in self._clients:
            if client is not None:
                client.close()
        self._lost = True
        self._clients.clear()
        self._said.clear()

    def _client(self, row: int) -> PolicyClient:
        while len(self._clients) <= row:
            self._clients.append(None)
        client = self._clients[row]
        if client is None:
            client = self._clients[row] = self._connected()
            environments, numbers = self._described(client)
            changed = [name for name, value in numbers.items() if value != getattr(self, name)]
            changed += ["environments"] if environments != self.environments else []
            if changed:
                self.close()
                raise UserError(
                    f"{client.address}: the server has another policy than before, with other "
                    f"{', '.join(changed)}; expected the same; connect anew"
                )
        return client

    def _connected(self) -> PolicyClient:
        """A new connection: with patience where there was one before."""
        if not self._lost:
            return PolicyClient(**self._options)
        address, timeout = self._address, self._options["timeout"]
        client = with_backoff(lambda: PolicyClient(**self._options), address, timeout)
        self._lost = False
        return client

    def _described(self, client: PolicyClient) -> tuple[tuple[Interface, ...], dict[str, int]]:
        """Environments and numbers of the policy, as the server promises them."""
        facts = client.metadata
        try:
            return tuple(Interface.from_json(e) for e in facts["environments"]), {
                name: int(facts[name]) for name in FACTS
            }
        except (KeyError, TypeError, ValueError) as error:
            self.close()
            raise UserError(
                f"{client.address}: the server does not describe its policy ({error!r}); expected "
                "one of this version of alltrades; update it"
            ) from error
