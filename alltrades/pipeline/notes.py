"""What a run folder notes of its stages: keys, places of outputs, and notes read back."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from alltrades.errors import UserError
from alltrades.system.files import to_json
from alltrades.system.reading import read_mapping


def key_digest(key: Mapping[str, Any]) -> str:
    """sha256 of a stage's inputs; the order of keys does not matter."""
    return hashlib.sha256(to_json(key).encode()).hexdigest()


def overlap(some: Iterable[str], others: Iterable[str]) -> bool:
    """Whether a path of one kind is one of the other's, or lies in it."""
    mine, theirs = ([Path(path) for path in paths] for paths in (some, others))
    return any(a.is_relative_to(b) or b.is_relative_to(a) for a in mine for b in theirs)


def inside(folder: Path, path: Path) -> str:
    found = os.path.relpath(os.path.abspath(path), os.path.abspath(folder))
    if found == "." or found.startswith(".."):
        raise ValueError(f"output {path} lies outside the run folder {folder}")
    return Path(found).as_posix()


def is_record(value: Any) -> bool:
    """Whether a value is what `Manifest` records of a stage."""
    outputs = value.get("outputs") if isinstance(value, dict) else None
    return (
        isinstance(outputs, dict)
        and isinstance(value.get("key"), str)
        and all(isinstance(digest, str) for digest in outputs.values())
    )


def read_note(path: Path) -> dict[str, Any]:
    """What this run noted for itself; nothing where it is not there or was damaged."""
    try:
        return read_mapping(path, "notes of a run", "")
    except UserError:
        return {}


def listing_of(work: Path) -> dict[str, list[str]]:
    """The files of a stage's outputs, by output, as its folder in work/ lists them."""
    found = read_note(work / "outputs.json")
    right = all(
        isinstance(names, list) and all(isinstance(name, str) for name in names)
        for names in found.values()
    )
    return found if right else {}
