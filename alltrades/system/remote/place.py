"""Paths of files in object stores, so that what reads files takes both: `place("s3://...")`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from alltrades.errors import UserError

T = TypeVar("T")
_ADDRESS = re.compile(r"(s3|gs|az|https?):/{1,2}(?=[^/])")  # Path leaves one of two slashes


def place(path: Path | str) -> Path:
    """A path on this machine as it is; a `RemotePath` for an address, also for one that was made a
    Path.
    """
    if isinstance(path, RemotePath):
        return path
    return RemotePath(path) if _ADDRESS.match(os.fspath(path)) else Path(path)


def is_remote(path: Path | str) -> bool:
    """Whether a path is an address."""
    return isinstance(place(path), RemotePath)


class RemotePath(type(Path())):  # type: ignore[misc]
    """An object, or a folder of objects, at scheme://bucket/key; what is not defined here finds
    nothing.

    Raises UserError from every method for a server that cannot be reached or refuses.
    """

    def __str__(self) -> str:
        return _ADDRESS.sub(lambda found: f"{found[1]}://", super().__str__(), count=1)

    def __fspath__(self) -> str:
        return str(self)

    def resolve(self, strict: bool = False) -> RemotePath:
        return self

    def absolute(self) -> RemotePath:
        return self

    def read_bytes(self) -> bytes:
        """FileNotFoundError where there is no such object."""
        from alltrades.system.remote.client import get

        return get(str(self))[0]

    def read_text(self, encoding: str | None = None, *_: Any, **__: Any) -> str:
        return self.read_bytes().decode(encoding or "utf-8")

    def read_as(self, version: str, parse: Callable[[bytes], T]) -> T:
        """What `parse` makes of the object, whose bytes are kept on this machine: as long as
        callers name the same `version`, they are not asked for again.

        `parse` raises UserError for bytes that are not the right ones: then those kept here are
        got anew, and those that came once more, as some may have been lost on their way.
        """
        from alltrades.system.remote.cache import cache

        here, name = cache(), f"{self}\0{version}"
        kept = here.get(name)
        if kept is not None:
            try:
                return parse(kept)
            except UserError:
                here.drop(name)
        data = self.read_bytes()
        try:
            found = parse(data)
        except UserError:
            data = self.read_bytes()
            found = parse(data)
        here.put(name, data)
        return found

    def exists(self, **_: Any) -> bool:
        from alltrades.system.remote.client import head

        return head(str(self)) is not None

    def is_file(self, **_: Any) -> bool:
        return self.exists()

    def is_dir(self, **_: Any) -> bool:
        return any(True for _ in self.iterdir())

    def iterdir(self) -> Iterator[RemotePath]:
        """Objects and folders of objects in it. Raises UserError for https, which lists nothing."""
        from alltrades.system.remote.client import names

        return (self / name for name in names(str(self)))
