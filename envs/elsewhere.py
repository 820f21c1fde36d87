"""Plugins of this process in another one, that may be on another machine."""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from alltrades.envs import registry


@dataclass(frozen=True)
class Surroundings:
    """What a process is told of the one that sends it work: where its code lies, and its plugins.

    Attributes:
        folder: the working folder. path: the import path.
        plugins: modules by name; files by their whole path, with what they hold.
    """

    folder: str
    path: tuple[str, ...]
    plugins: tuple[tuple[str, bytes | None], ...]

    @classmethod
    def here(cls) -> Surroundings:
        """Those of this process."""
        names = registry.loaded_plugins()
        files = {name: Path(name).read_bytes() for name in names if name.endswith(".py")}
        plugins = tuple((name, files.get(name)) for name in names)
        return cls(os.getcwd(), tuple(p or os.getcwd() for p in sys.path), plugins)

    def __call__(self) -> None:
        """Make them this process's. A file that is not on this machine, or another one, is written
        to a temporary folder.

        Raises UserError as `load_plugins`.
        """
        with suppress(OSError):
            os.chdir(self.folder)
        sys.path += [p for p in self.path if p not in sys.path and Path(p).exists()]
        registry.load_plugins([_there(name, content) for name, content in self.plugins])


def _there(name: str, content: bytes | None) -> str:
    if content is None:
        return name
    with suppress(OSError):
        if Path(name).read_bytes() == content:
            return name
    copy = Path(tempfile.mkdtemp(prefix="alltrades-plugin-")) / Path(name).name
    copy.write_bytes(content)
    return str(copy)
