"""The controller of a robot whose policy runs behind `alltrades serve`; needs neither torch nor the policy."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from alltrades.data.errors import UserError
from alltrades.policies.client import PolicyClient

SCHEMES = ("ws", "wss")


def parse_address(address: str) -> tuple[str, int, bool]:
    """Host, port and whether TLS is wanted, of "ws://host:port" or "wss://host:port"; UserError for anything else."""
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in SCHEMES or not parts.hostname or port is None or parts.path not in ("", "/"):
        raise UserError(f"server address '{address}'; expected ws://HOST:PORT, or wss://HOST:PORT")
    return parts.hostname, port, parts.scheme == "wss"


class RemoteController:
    """One robot's queue of actions, filled by the server; `reset` and `act` are those of `Controller` with one lane.

    Every observation since the last request goes into the next one, so that the server's history is that of the robot.
    `held` tells whether the operator has stopped the robots: until the reply says otherwise, each step asks anew.
    """

    def __init__(self, client: PolicyClient) -> None:
        self.client = client
        try:
            facts = client.metadata
            self.environments = tuple(SimpleNamespace(**e) for e in facts["environments"])
            self._digest = str(facts["policy"])
            self.action_dim = max(int(e.action_dim) for e in self.environments)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{client.address}: its server tells nothing of its policy ({error!r}); expected `alltrades serve`"
                            ) from error
        self.held, self.starved = False, 0
        self._queue: list[np.ndarray] = []  # next action last
        self._frames: list[np.ndarray] = []  # since the last request

    def digest(self) -> str:
        """Digest of the policy that was served on connecting."""
        return self._digest

    def reset(self, *, environment: str | None = None, seed: int | None = None) -> None:
        """Start an episode with the next `act`."""
        self.client.reset(environment, seed)
        self._queue.clear()
        self._frames.clear()

    def act(self, observation: np.ndarray) -> np.ndarray:
        """One control step: observation (obs_dim,) -> (1, action_dim), zero in dimensions the environment does not have.

        Raises UserError with the server's words when it refuses the observation, or does not answer.
        """
        self._frames.append(np.array(observation, dtype=np.float32))
        if not self._queue:
            reply: dict[str, Any] = self.client.infer({"observation": np.stack(self._frames)})
            self._frames.clear()
            self.held = bool(reply.get("held", False))
            self.starved += bool(reply.get("starved", False))
            actions = np.asarray(reply["actions"], dtype=np.float32)  # (execute, A_env)
            self._queue = list(actions[: 1 if self.held else None][::-1])
        action = self._queue.pop()
        out = np.zeros((1, self.action_dim), dtype=np.float32)
        out[0, : len(action)] = action
        return out

    def close(self) -> None:
        self.client.close()
