"""Who may connect: the token, TLS, web pages of other sites, names that a stranger may have pointed
at this machine.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import ssl
from pathlib import Path
from typing import Any

from alltrades.errors import UserError


def tls_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """TLS settings of the server; raises UserError when the two files do not fit."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise UserError(
            f"certificate {certificate} and key {key} cannot be used ({error}); expected two PEM "
            "files that belong together"
        ) from error
    return context


def token_of(authorization: str | None) -> str:
    """The secret in an Authorization header: `Bearer X`, `Api-Key X` (openpi-client), or the
    password of `Basic`.
    """
    kind, _, value = (authorization or "").partition(" ")
    if kind.lower() in ("bearer", "api-key"):
        return value.strip()
    if kind.lower() == "basic":
        try:
            return base64.b64decode(value.strip(), validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return ""


def token_fits(token: str, authorization: str | None) -> bool:
    """Whether a request brings the secret, compared in constant time."""
    return hmac.compare_digest(token.encode(), token_of(authorization).encode())


def own_origin(origin: str, host: str, listening: str, secure: bool) -> bool:
    """Whether a browser's request comes from this server's own page.

    `origin` and `host` are the request's headers. A page of another site has another origin. A page
    of a name that a stranger points at this machine (DNS rebinding) has the right one, so that the
    name must be one of ours too.
    """
    return origin == f"{'https' if secure else 'http'}://{host}" and own_name(host, listening)


def own_name(host: str, listening: str) -> bool:
    """Whether a Host header is an address, localhost or the name that the server was told to listen
    on.
    """
    name = host.rpartition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
    if name in ("localhost", listening):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def loopback(host: str) -> bool:
    """Whether an address to listen on is reached from this machine only."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def one_header(headers: Any, name: str) -> str | None:
    """A header's value, None when it is missing; several are as good as a wrong one."""
    values = headers.get_all(name)
    return None if not values else values[0] if len(values) == 1 else ""
