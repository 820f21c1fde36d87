"""Policy server: one policy, any number of robots over websockets, each with an episode of its own.

The protocol is that of the public openpi-client package: on connecting a client gets one message of
metadata; then every request {"observation": ...} is answered by {"actions": (n_action_steps,
action_dim), "server_timing": {...}, ...}, or by a text frame that says why it was refused.
`requests.py` lists the keys, `service.py` what a reply holds.
"""

from alltrades.policies.server.service import PolicyServer, serve_forever
from alltrades.policies.server.settings import ServerSettings

__all__ = ["PolicyServer", "ServerSettings", "serve_forever"]
