"""What was read from object stores, kept on this machine: files below one folder, the least
recently used removed when they take more than a set size.
"""

from __future__ import annotations

import functools
import hashlib
import math
import os
import threading
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile

from alltrades.errors import UserError

FOLDER, SIZE = "ALLTRADES_CACHE", "ALLTRADES_CACHE_GB"  # environment variables
DEFAULT_GB = 10.0
SLACK = 0.05  # share of the size that a process adds before it looks at the folder again


class Cache:
    """Files by name, `limit` bytes of them; processes may share the folder, each beyond the limit
    by at most SLACK of it. What cannot be kept is not kept, and nothing is said.
    """

    def __init__(self, folder: Path, limit: float) -> None:
        self.folder, self.limit = folder, limit
        self._lock = threading.Lock()
        self._added = math.inf  # bytes since the folder was looked at

    def path(self, name: str) -> Path:
        """Where the file of a name is, or would be."""
        digest = hashlib.sha256(name.encode()).hexdigest()
        return self.folder / "objects" / digest[:2] / digest[2:]

    def get(self, name: str) -> bytes | None:
        """The bytes that were put under a name, if they are there still."""
        path = self.path(name)
        try:
            data = path.read_bytes()
            os.utime(path)  # used now
        except OSError:
            return None
        return data

    def put(self, name: str, data: bytes) -> None:
        """Keep bytes under a name."""
        if not self.limit:
            return
        path = self.path(name)
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            with NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
                try:
                    file.write(data)
                    file.close()
                    os.replace(file.name, path)
                except BaseException:
                    os.unlink(file.name)
                    raise
        self.added(len(data))

    def drop(self, name: str) -> None:
        """Forget what is kept under a name."""
        with suppress(OSError):
            self.path(name).unlink()

    def added(self, size: int) -> None:
        """Note that `size` bytes came into the folder; make room where that is too much."""
        with self._lock:
            self._added += size
            if self._added > SLACK * self.limit:
                self._added = 0
                self._trim()

    def _trim(self) -> None:
        found = []
        for folder, _, files in os.walk(self.folder):
            for name in files:
                with suppress(OSError):
                    path = os.path.join(folder, name)
                    facts = os.stat(path)
                    found.append((facts.st_mtime_ns, facts.st_size, path))
        size = sum(s for _, s, _ in found)
        for _, taken, path in sorted(found):
            if size <= (1 - SLACK) * self.limit:
                break
            with suppress(OSError):
                os.unlink(path)
                size -= taken


def cache() -> Cache:
    """That of the environment variables ALLTRADES_CACHE and ALLTRADES_CACHE_GB."""
    return _cache(os.environ.get(FOLDER, ""), os.environ.get(SIZE, ""))


@functools.lru_cache(maxsize=8)
def _cache(folder: str, size: str) -> Cache:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    try:
        gigabytes = float(size) if size else DEFAULT_GB
        if not 0 <= gigabytes < math.inf:
            raise ValueError
    except ValueError:
        raise UserError(
            f"{SIZE}={size}; expected gigabytes, 0 or more (0 keeps nothing); set it so, or unset "
            "it"
        ) from None
    return Cache(Path(folder) if folder else Path(base) / "alltrades", gigabytes * 1e9)
