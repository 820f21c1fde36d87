"""Policy server: one policy, any number of robots over websockets, each with an episode of its own.

The protocol is that of the public openpi-client package: on connecting a client gets one message of
metadata; then every request {"observation": ...} is answered by {"actions": (n_action_steps,
action_dim), "server_timing": {...}, ...}, or by a text frame that says why it was refused.
`requests.py` lists the keys, `service.py` what a reply holds. The server is imported when it is
asked for: its settings alone need no PyTorch.
"""

from typing import TYPE_CHECKING, Any

from alltrades.policies.server.settings import ServerSettings

if TYPE_CHECKING:
    from alltrades.policies.server.service import PolicyServer, serve_forever

__all__ = ["PolicyServer", "ServerSettings", "serve_forever"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'alltrades.policies.server' has no attribute '{name}'")
    from alltrades.policies.server import service

    return getattr(service, name)
