"""The messages that a policy server and its clients exchange; need neither torch nor simulators.

A message is one binary websocket frame of msgpack. An array is the map {b"__ndarray__": True,
b"data": its bytes, b"dtype": such as "<f4", b"shape": its shape}, a NumPy scalar {b"__npgeneric__":
True, b"data": value, b"dtype": ...}. This is the format of the public openpi-client package, so its
clients work with this server. A text frame from the server is an error. Nothing here unpickles, and
arrays of objects cannot be expressed.
"""

from __future__ import annotations

import math
import re
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np

from alltrades.errors import MissingExtra, UserError
from alltrades.system.streams import checked_seed

MAX_MESSAGE = 1 << 20  # bytes either way, without images (see `message_limit`)
# of a policy, which a server promises its clients
FACTS = ("n_obs_steps", "horizon", "n_action_steps", "draws", "action_dim")
SEED_DIGITS = 1000
_DIGITS = re.compile(r"-?[0-9]+")
_DTYPE = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248])")  # booleans, integers, floats


def require(name: str) -> ModuleType:
    """Import a package of the `serve` extra; raises MissingExtra where it is not installed."""
    try:
        return import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise MissingExtra(
            f"package {package} is not installed; expected the serve extra", "serve"
        ) from error


def printable(text: str, most: int = 200) -> str:
    """A stranger's words on one line of a terminal or a log: at most so many characters, with
    everything that is not shown as it is (control characters, direction marks, line ends) escaped.
    """
    out = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:most])
    return out if len(out) <= most and len(text) <= most else f"{out[: most - 2]}.."


def wire_seed(seed: Any) -> int | str:
    """A seed for a message, whose integers have 64 bits: a larger one goes as its digits. Raises
    UserError for what is no integer.
    """
    seed = checked_seed(seed)
    return seed if -(2**63) <= seed < 2**64 else str(seed)


def read_seed(value: Any) -> int:
    """The other way around; raises UserError for what is neither an integer nor its digits."""
    if isinstance(value, str) and len(value) <= SEED_DIGITS and _DIGITS.fullmatch(value):
        return int(value)
    try:
        return checked_seed(value)
    except UserError as error:
        raise UserError(
            f"'seed' is a {type(value).__name__}; expected an integer, or the up to {SEED_DIGITS} "
            "digits of one"
        ) from error


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
