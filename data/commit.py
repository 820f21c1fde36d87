"""commit.json of a store: what counts, written last, by rename, with a checksum of itself."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from alltrades.errors import UserError
from alltrades.system.files import write_text
from alltrades.system.lock import Lock
from alltrades.system.remote.lease import Lease
from alltrades.system.remote.place import RemotePath

COMMIT = "commit.json"
FORMAT_VERSION = 2
_HEAD = re.compile(rb'\{"checksum": "([0-9a-f]{64})"')
_HEAD_BYTES = 80


def read_commit(path: Path) -> dict[str, Any] | None:
    """The commit of the store at `path`; None for a folder without one.

    Raises UserError for one that cannot be read, was changed, or is of a later format.
    """
    file = path / COMMIT
    try:
        text = file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(
            f"{file}: {error.strerror}; expected a file that can be read; mend its rights"
        ) from error
    try:
        commit = json.loads(text)
        version = commit["format_version"]
        known = isinstance(version, int)
    except (ValueError, KeyError, TypeError, RecursionError):
        known = False
    if not known:
        raise UserError(
            f"{file}: cannot be read as a store's commit; expected JSON with a format_version; "
            "restore it from a copy"
        )
    if version > FORMAT_VERSION:
        raise UserError(
            f"{path}: store format {version}; this version reads up to {FORMAT_VERSION}; upgrade "
            "alltrades"
        )
    if version == FORMAT_VERSION and not _unchanged(commit.pop("checksum", None), text, commit):
        raise UserError(
            f"{file}: it was changed after it was written (its checksum differs); expected what "
            "alltrades wrote; restore it from a copy"
        )
    return commit


def checksum_of(path: Path) -> str | None:
    """What tells the commit of the store at `path` from any other, by the first bytes of it; None
    where there is none that says so. Nothing is checked.
    """
    file = path / COMMIT
    try:
        if isinstance(file, RemotePath):
            head = file.read_bytes()[:_HEAD_BYTES]
        else:
            with file.open("rb") as opened:
                head = opened.read(_HEAD_BYTES)
    except OSError:
        return None
    found = _HEAD.match(head)
    return None if found is None else found[1].decode()


def write_commit(path: Path, commit: dict[str, Any], writer: Lock | Lease | None = None) -> None:
    """Make this the store's commit: readers see it or the one before. UserError where a remote
    store's writer was displaced by another.
    """
    said = json.dumps(commit, sort_keys=True)
    text = f'{{"checksum": "{_digest(said)}", {said[1:]}\n'
    if isinstance(writer, Lease):
        writer.commit(str(path / COMMIT), text.encode())
    else:
        write_text(path / COMMIT, text)


def occupied(path: Path) -> bool:
    """Whether something stands at a store's path already, to be opened and not created."""
    if isinstance(path, RemotePath):
        return (path / COMMIT).exists()
    return path.exists() and (not path.is_dir() or any(path.iterdir()))


def refuse_store(path: Path, what: str) -> None:
    """UserError where something else than episodes is to be written into the folder of a store."""
    if (path / COMMIT).exists():
        raise UserError(
            f"{path}: a store of episodes; expected another place for a {what}, which can be "
            "deleted without losing them; choose one"
        )


def writer_of(path: Path) -> Lock | Lease:
    """What makes a process the one writer of the store at `path`."""
    return (
        Lease(str(path), "store", COMMIT) if isinstance(path, RemotePath) else Lock(path, "store")
    )


def _unchanged(checksum: Any, text: bytes, commit: dict[str, Any]) -> bool:
    """Whether a commit is what its checksum says: by the bytes that stand behind it, as they were
    written, else by the values, which others may have laid out otherwise.
    """
    head = f'{{"checksum": "{checksum}", '.encode()
    if text.startswith(head):
        said = hashlib.sha256(b"{")
        said.update(memoryview(text.rstrip(b"\n"))[len(head) :])
        if said.hexdigest() == checksum:
            return True
    return _digest(json.dumps(commit, sort_keys=True)) == checksum


def _digest(said: str) -> str:
    return hashlib.sha256(said.encode()).hexdigest()
