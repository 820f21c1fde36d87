"""One writer per folder: a lock that its process holds and that the kernel frees, however the
process dies.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from alltrades.errors import UserError
from alltrades.system.platforms import needs_posix
from alltrades.system.refusals import in_words

NAME = ".lock"  # the file in the folder; it holds the process id while the lock is held
_held: weakref.WeakSet[Lock] = weakref.WeakSet()


class Lock:
    """The right to write in a folder; readers need none.

    Args:
        folder: made where it is not there, and removed with the lock where it is still empty.
        what: what the folder is, for messages.

    Raises UserError from `acquire` (and `with`) when the lock is held, also by this process, and
    when the folder cannot be written.
    """

    def __init__(self, folder: Path | str, what: str = "folder") -> None:
        self.folder, self.what = Path(folder), what
        self._file: int | None = None
        self._made = False

    @property
    def held(self) -> bool:
        return self._file is not None

    def acquire(self) -> None:
        """Take the lock, or raise UserError at once."""
        needs_posix(f"writing to a {self.what}, which is locked meanwhile,")
        import fcntl  # not everywhere, and not for readers

        tries = 100
        while self._file is None:
            try:
                self._made |= not self.folder.exists()
                self.folder.mkdir(parents=True, exist_ok=True)
                file = os.open(self.folder / NAME, os.O_RDWR | os.O_CREAT, 0o644)
            except OSError as error:
                tries -= 1
                if tries and _comes_and_goes(error, self.folder):
                    continue
                raise UserError(
                    f"{self.what} {in_words(error, self.folder)}; expected a folder that can be "
                    "written"
                ) from error
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                owner = os.pread(file, 32, 0).decode(errors="replace").strip() or "unknown"
                os.close(file)
                raise UserError(
                    f"{self.what} {self.folder} is in use by process {owner}; expected one writer "
                    "at a time; wait for it or choose another folder"
                ) from error
            if not _is_at(file, self.folder / NAME):  # removed by the writer before
                os.close(file)
                continue
            with suppress(OSError):  # a full disk: the lock holds without its holder's number
                os.ftruncate(file, 0)
                os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
            self._file = file
        _held.add(self)

    def release(self) -> None:
        """Give the lock back; nothing where it is not held."""
        if self._file is None:
            return
        (self.folder / NAME).unlink(missing_ok=True)
        if self._made:
            try:
                self.folder.rmdir()
            except OSError:
                pass  # something was written
        self._drop()

    def _drop(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __enter__(self) -> Lock:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def __del__(self) -> None:
        self.release()


@contextmanager
def locked(folder: Path | str, what: str = "folder") -> Iterator[None]:
    """Hold a folder's lock; UserError, which names the holder, where another holds it."""
    with Lock(folder, what):
        yield


def _comes_and_goes(error: OSError, folder: Path) -> bool:
    """Whether making the folder may have failed since others, done with it, removed it empty."""
    if isinstance(error, FileExistsError):
        return folder.is_dir() or not os.path.lexists(folder)
    return isinstance(error, FileNotFoundError)


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _forget() -> None:
    """A forked child owns no lock: its copies of the files must not outlive the parent's."""
    for lock in list(_held):
        lock._drop()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
