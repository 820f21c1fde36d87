"""Policies from object stores: copied to this machine, where they are read as any other."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp

from alltrades.errors import UserError
from alltrades.system.files import file_digest, remove
from alltrades.system.refusals import writing
from alltrades.system.remote.place import RemotePath, place

POLICY = (
    "policy.json",
    "model.safetensors",
)  # the first describes the second
NOTE = ".fetched.json"  # sha256 of the files of a copy


def fetched(path: Path | str) -> Path:
    """A policy's folder, a folder of several, or an exported .onnx file with its contract: itself
    where it is on this machine, a copy in the cache where it is at an address.

    A copy is named by the digest of what the policy says of itself, whole (its files have the
    sha256 that they came with, or are got anew), and as new as the one at the address.

    Raises UserError where there is none, and for a server that cannot be reached or refuses.
    """
    source = place(path)
    if not isinstance(source, RemotePath):
        return source
    if source.suffix == ".onnx":
        files = source.with_suffix(".json").name, source.name
        return _copied(source.parent, files, "exported") / source.name
    if (source / POLICY[0]).exists():
        return _copied(source, POLICY, source.name)
    found = [child for child in source.iterdir() if (child / POLICY[0]).exists()]
    if not found:
        raise UserError(
            f"{source}: no policy here (policy.json is missing); expected a policy's folder with "
            "policy.json and model.safetensors, a folder of such, or an exported .onnx file; check "
            "the address"
        )
    copies = {child.name: _copied(child, POLICY, child.name) for child in found}
    names = hashlib.sha256(json.dumps([str(copies[n]) for n in sorted(copies)]).encode())
    together = _folder() / f"{names.hexdigest()[:24]}-folder" / source.name
    with writing(together):
        together.mkdir(parents=True, exist_ok=True)
        for name, copy in copies.items():
            with suppress(FileExistsError):
                os.symlink(copy, together / name)
    return together


def _folder() -> Path:
    from alltrades.system.remote.cache import cache

    return cache().folder / "policies"


def _copied(source: Path, files: Sequence[str], name: str) -> Path:
    """The folder of this name with a copy of `files` in `source`, of which the first describes the
    others.
    """
    from alltrades.system.remote.cache import cache
    from alltrades.system.remote.client import download, head

    try:
        digest = hashlib.sha256(files[0].encode() + (source / files[0]).read_bytes())
    except FileNotFoundError as error:
        raise _missing(source, files[0]) from error
    size = 0
    for file in files[1:]:
        there = head(str(source / file))
        if there is None:
            raise _missing(source, file)
        digest.update(repr((file, there)).encode())
        size += there.size
    target = _folder() / digest.hexdigest()[:24] / name
    if _is_whole(target, files):
        return target
    with writing(target):
        cache().added(size)  # room for it
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(mkdtemp(prefix=".partial-", dir=_folder()))
        try:
            for file in files:
                download(str(source / file), partial / file)
            sums = {file: file_digest(partial / file) for file in files}
            (partial / NOTE).write_text(json.dumps(sums))
            remove(target)
            with suppress(OSError):  # another process was as fast, with the same
                os.rename(partial, target)
        except FileNotFoundError as error:
            raise _missing(source, "one of its files") from error
        finally:
            remove(partial)
    if not _is_whole(target, files):
        raise UserError(
            f"{source}: its copy at {target} is not what was written there; expected a disk that "
            "keeps files; set ALLTRADES_CACHE to a folder on another one"
        )
    return target


def _is_whole(folder: Path, files: Sequence[str]) -> bool:
    """Whether a copy has all its files as they came; they are used now."""
    try:
        sums = json.loads((folder / NOTE).read_text())
        for file in (*files, NOTE):
            os.utime(folder / file)
        return all(file_digest(folder / file) == sums[file] for file in files)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _missing(source: Path, file: str) -> UserError:
    return UserError(
        f"{source}: no policy here ({file} is missing); expected a policy's folder with "
        "policy.json and model.safetensors, or an exported .onnx file with its contract; copy it "
        "there again"
    )
