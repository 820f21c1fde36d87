"""Ways in which files come to harm, each a function of a random generator."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Rng = np.random.Generator
TEXT = (".json", ".jsonl", ".yaml", ".yml")
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 0.5, -0.5, 1e-9, 1e308, 2**31, 2**40, 2**63, 10**30),
    *("", "x", "float64", "../../x", "\u00e9\u0000", [], [1], [3, 1], [[]], ["x"], {}, {"x": 1}),
)


def _flip(data: bytes, rng: Rng) -> bytes:
    at = int(rng.integers(len(data)))
    return data[:at] + bytes([data[at] ^ (1 << int(rng.integers(8)))]) + data[at + 1 :]


def _truncate(data: bytes, rng: Rng) -> bytes:
    return data[: int(rng.integers(len(data)))]


def _range(data: bytes, rng: Rng) -> tuple[int, int]:
    """Where a piece begins and ends: mostly a short one."""
    start = int(rng.integers(len(data)))
    longest = len(data) - start if rng.random() < 0.2 else 16
    return start, min(len(data), start + 1 + int(rng.integers(longest)))


def _delete_range(data: bytes, rng: Rng) -> bytes:
    start, stop = _range(data, rng)
    return data[:start] + data[stop:]


def _zero_range(data: bytes, rng: Rng) -> bytes:
    start, stop = _range(data, rng)
    return data[:start] + bytes(stop - start) + data[stop:]


def _insert(data: bytes, rng: Rng) -> bytes:
    at = int(rng.integers(len(data) + 1))
    return data[:at] + rng.bytes(1 + int(rng.integers(8))) + data[at:]


def _repeat_range(data: bytes, rng: Rng) -> bytes:
    start, stop = _range(data, rng)
    return data[:stop] + data[start:stop] + data[stop:]


def _swap_pieces(data: bytes, rng: Rng) -> bytes:
    a, b, c = sorted(int(x) for x in rng.integers(len(data) + 1, size=3))
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def _empty(data: bytes, rng: Rng) -> bytes:
    return b""


def _noise(data: bytes, rng: Rng) -> bytes:
    return rng.bytes(len(data) if len(data) < 2**16 else 100)


def _edit_number(data: bytes, rng: Rng) -> bytes:
    """Text with one number, or a digit of it, changed."""
    found = list(re.finditer(rb"-?\d+(\.\d+)?([eE][+-]?\d+)?", data))
    if not found:
        return _flip(data, rng)
    one = found[int(rng.integers(len(found)))]
    if rng.random() < 0.5:
        at = int(rng.integers(one.start(), one.end()))
        new = b"0123456789.-"[int(rng.integers(12)) :][:1]
        return data[:at] + new + data[at + 1 :]
    choices = [b"0", b"-1", b"7", b"1e400", b"nan", b"1000000000000", b"1" * 400, b"0.25", b'"x"']
    return data[: one.start()] + choices[int(rng.integers(len(choices)))] + data[one.end() :]


def _edit_word(data: bytes, rng: Rng) -> bytes:
    """Text with a letter of one word, a key or a value, changed, left out or doubled."""
    found = list(re.finditer(rb"[A-Za-z_]+", data))
    if not found:
        return _flip(data, rng)
    one = found[int(rng.integers(len(found)))]
    at = int(rng.integers(one.start(), one.end()))
    new = (b"", data[at : at + 1] * 2, b"q", b"_", b" ")[int(rng.integers(5))]
    return data[:at] + new + data[at + 1 :]


def _edit_lines(data: bytes, rng: Rng) -> bytes:
    """Text with a line left out, doubled, or moved behind another."""
    lines = data.split(b"\n")
    i, j = (int(x) for x in rng.integers(len(lines), size=2))
    way = int(rng.integers(3))
    line = lines[i] if way == 1 else lines.pop(i)
    if way:
        lines.insert(j, line)
    return b"\n".join(lines)


def _edit_value(data: bytes, rng: Rng) -> bytes:
    """JSON or YAML with the value of one key changed to one of another kind, or without the key."""
    import yaml

    try:
        facts = json.loads(data)
        write: Callable[[Any], str] = json.dumps
    except ValueError:
        try:
            facts, write = yaml.safe_load(data), yaml.safe_dump
        except (yaml.YAMLError, ValueError):
            return _flip(data, rng)
    places: list[tuple[Any, Any]] = []
    waiting = [facts]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict | list):
            keys = list(part) if isinstance(part, dict) else range(len(part))
            places += [(part, key) for key in keys]
            waiting += [part[key] for key in keys]
    if not places:
        return _flip(data, rng)
    part, key = places[int(rng.integers(len(places)))]
    if rng.random() < 0.25:
        del part[key]
    else:
        part[key] = VALUES[int(rng.integers(len(VALUES)))]
    return write(facts).encode("utf-8", "surrogatepass")


OF_BYTES: dict[str, Callable[[bytes, Rng], bytes]] = {
    "flip a bit": _flip,
    "cut short": _truncate,
    "leave out a piece": _delete_range,
    "zero a piece": _zero_range,
    "insert bytes": _insert,
    "repeat a piece": _repeat_range,
    "swap pieces": _swap_pieces,
    "empty": _empty,
    "noise": _noise,
}
OF_TEXT = {
    "edit a number": _edit_number,
    "edit a word": _edit_word,
    "edit lines": _edit_lines,
    "edit a value": _edit_value,
}
OF_FILES = ("delete", "a folder in its place", "swap with another", "from another run")


def mutate(folder: Path, files: list[Path], other: Path, rng: Rng) -> tuple[str, list[Path]]:
    """Damage one of some files in `folder`, of which `other` is of another run.

    Returns what was done, and to which files.
    """
    file = files[int(rng.integers(len(files)))]
    kinds = [*OF_BYTES, *OF_FILES]
    if file.suffix in TEXT:
        kinds += [*OF_TEXT] * 3
    kind, name = kinds[int(rng.integers(len(kinds)))], file.relative_to(folder)
    data = file.read_bytes()
    if kind == "delete":
        file.unlink()
    elif kind == "a folder in its place":
        file.unlink()
        file.mkdir()
    elif kind == "swap with another":
        second = files[int(rng.integers(len(files)))]
        file.write_bytes(second.read_bytes())
        second.write_bytes(data)
        return f"{kind}: {name}, {second.relative_to(folder)}", [file, second]
    elif kind == "from another run":
        if (other / name).is_file():
            shutil.copyfile(other / name, file)
        else:
            file.unlink()
    elif data:
        file.write_bytes((OF_BYTES | OF_TEXT)[kind](data, rng))
    else:
        file.write_bytes(rng.bytes(8))
    return f"{kind}: {name}", [file]
