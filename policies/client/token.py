"""The secret that a server may want of its clients."""

from __future__ import annotations

from pathlib import Path

from alltrades.errors import UserError

SHORTEST_TOKEN = 16


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
            "printable ones without spaces, such as from `openssl rand -hex 32`"
        )
    return token
