"""Files that survive a kill, and digests of what they hold."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote


def jsonable(value: Any) -> Any:
    """`value` as JSON data: arrays become lists, paths text, models mappings; NaN and infinities
    become null.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(jsonable(v) for v in value)
    if isinstance(value, list | tuple):
        return [jsonable(v) for v in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "model_dump"):
        return jsonable(value.model_dump())
    if hasattr(value, "tolist"):  # NumPy arrays and scalars, tensors
        return jsonable(value.tolist())
    raise TypeError(f"{type(value).__name__} has no JSON form")


def to_json(value: Any) -> str:
    """JSON with sorted keys; equal values give equal text."""
    return (
        json.dumps(jsonable(value), indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False)
        + "\n"
    )


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """A temporary path beside `path`, which takes its place when the block ends without an error.

    Readers see the old or the new file, also after a kill: fsync, rename, fsync of the folder.
    After an error the old file stays and the temporary one is removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        _sync(partial)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def write_text(path: Path, text: str) -> None:
    """Write a file as UTF-8 text through `replacing`."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """`write_text` of `to_json`."""
    write_text(path, to_json(value))


def slug(name: str) -> str:
    """A name (an environment's, a stage's) as one folder name, different for different names.

    "/" becomes "__"; what is no letter, digit or one of "._+-", an underscore beside another or
    beside "/", and a first "." or "/" become "%" and the hexadecimal bytes of their UTF-8.
    """
    name = re.sub(r"[^A-Za-z0-9._+/-]|^[./]|_(?=[_/])|(?<=[_/])_", _escaped, name)
    return name.replace("/", "__")


def unslug(folder: str) -> str:
    """The name whose `slug` is this."""
    return unquote(folder.replace("__", "/"), errors="surrogatepass")


def _escaped(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02x}" for byte in match[0].encode(errors="surrogatepass"))


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def list_files(path: Path) -> list[str]:
    """Relative names of the files below a folder, sorted, without half-written ones and locks; [""]
    for a file itself.
    """
    if path.is_file():
        return [""]
    return sorted(
        p.relative_to(path).as_posix()
        for p in path.rglob("*")
        if p.is_file()
        and p.name != ".lock"
        and not (p.name.startswith(".") and p.name.endswith(".partial"))
    )


def tree_digest(folder: Path, names: Iterable[str] | None = None) -> str:
    """sha256 over names and contents of the files below a folder, or of those in `names` only.
    O(bytes).
    """
    digest = hashlib.sha256()
    for name in list_files(folder) if names is None else sorted(names):
        digest.update(f"{name}\0{file_digest(folder / name if name else folder)}\n".encode())
    return digest.hexdigest()


def copy(source: Path, target: Path, names: Iterable[str] | None = None) -> None:
    """Copy a file, or the files below a folder, or those in `names` only; OSError where one is
    missing.
    """
    for name in list_files(source) if names is None else names:
        to = target / name if name else target
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source / name if name else source, to)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
