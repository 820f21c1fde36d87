"""Text, JSON and YAML files as they are read: one boundary that turns whatever a damaged file makes
libraries raise into one line. Files that the program writes for itself carry a seal.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alltrades.errors import UserError
from alltrades.system.files import jsonable, to_json, write_json

MOST_BYTES = 2**28  # of a text file that anything here writes
SEAL, SEALED_BY = "_seal", "written_by"  # the first and the last key of a file
PROGRAM = "alltrades"


class Unreadable(ValueError):
    """What is wrong with a file's content."""


def read_text(path: Path | str, expected: str, remedy: str, most: int = MOST_BYTES) -> str:
    """A file as UTF-8 text.

    Args:
        expected: what should stand there, for the message.
        remedy: what to do where something else does.
        most: bytes beyond which it is not read.

    Raises UserError, in one line, for a file that is not there or cannot be read.
    """
    path = Path(path)
    try:
        if path.is_file() and path.stat().st_size > most:
            raise Unreadable(f"{path.stat().st_size} bytes, more than {most}")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise _refused(path, f"no UTF-8 text at byte {error.start}", expected, remedy) from error
    except Unreadable as error:
        raise _refused(path, error, expected, remedy) from error
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        cause = getattr(error, "strerror", None) or error
        raise _refused(path, cause, expected, remedy) from error


def _refused(path: Path | str, cause: object, expected: str, remedy: str) -> UserError:
    said = " ".join(str(cause).split())[:160]
    return UserError(f"{path}: cannot be read ({said}); expected {expected}; {remedy}")


def parse_json(text: str | bytes) -> Any:
    """JSON data; Unreadable, a ValueError, for whatever is none, for numbers that are not finite
    and for what is nested too deeply.
    """
    try:
        return json.loads(text, parse_constant=_no_constant, parse_float=_finite)
    except json.JSONDecodeError as error:
        said = error.msg.removesuffix(" at")
        raise Unreadable(f"{said} at line {error.lineno}, column {error.colno}") from error
    except RecursionError as error:
        raise Unreadable("nested too deeply") from error


def _no_constant(name: str) -> Any:
    raise Unreadable(f"{name}, which is no finite number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):  # such as 1e999
        _no_constant(text)
    return value


def read_json(path: Path | str, expected: str, remedy: str) -> Any:
    """The JSON data of a file, without its seal where it has one.

    A seal is a mapping's keys "_seal", the digest of everything else in it, and "written_by". A
    file with one of them must have both, and be as it was written; one with neither was written by
    somebody else.

    Raises UserError, in one line, for a file that cannot be read, is no JSON, or was changed.
    """
    try:
        found = parse_json(read_text(path, expected, remedy))
        if isinstance(found, dict) and (SEAL in found or SEALED_BY in found):
            given = found.pop(SEAL, None)
            if given != _digest(found):
                raise Unreadable("it was changed after it was written: its digest differs")
            del found[SEALED_BY]
        return found
    except ValueError as error:
        raise _refused(path, error, expected, remedy) from error


def read_mapping(path: Path | str, expected: str, remedy: str) -> dict[str, Any]:
    """`read_json` of a file that holds a mapping."""
    found = read_json(path, expected, remedy)
    if not isinstance(found, dict):
        raise _refused(path, f"{type(found).__name__}, not a mapping", expected, remedy)
    return found


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """`value` with a seal: see `read_json`."""
    plain = {**jsonable(value), SEALED_BY: PROGRAM}
    return {SEAL: _digest(plain), **plain}


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """`write_json` with a seal."""
    write_json(path, sealed(value))


def _digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(to_json(value).encode("utf-8", "surrogatepass")).hexdigest()
