"""What an operating system's refusal of a file means to a user, in one line."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alltrades.errors import UserError

AGAIN = "the same command then goes on where it was"
REMEDIES = {
    errno.ENOSPC: f"free some space on its disk; {AGAIN}",
    errno.EDQUOT: f"free some of your quota; {AGAIN}",
    errno.EFBIG: f"raise the limit of a file's size (ulimit -f); {AGAIN}",
    errno.EROFS: "choose a path on a disk that can be written",
    errno.EACCES: "mend its rights, or choose another path",
    errno.EPERM: "mend its rights, or choose another path",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOTDIR: "a file stands where a folder is expected; choose another path",
    errno.EEXIST: "a file stands where a folder is expected; choose another path",
    errno.EISDIR: "a folder stands there; name a file",
    errno.ELOOP: "its links lead in a circle; mend them",
    errno.EMFILE: f"raise the limit of open files (ulimit -n); {AGAIN}",
    errno.ENFILE: f"this computer has too many open files; close some; {AGAIN}",
    errno.EIO: f"its disk fails; check that, or choose another one; {AGAIN}",
    errno.EBUSY: "it is in use, or a file that was mounted alone; choose another path",
    errno.ESTALE: f"its network disk was lost; mount it again; {AGAIN}",
}
PASSED_ON = (BrokenPipeError, ConnectionError, TimeoutError, InterruptedError, ChildProcessError)


def os_error(error: BaseException) -> OSError | None:
    """The operating system's refusal that an exception is, or that a library has put into words of
    its own, as those in Rust do: "(os error 28)", "Os { code: 28, ... }". None for others.
    """
    if isinstance(error, OSError):
        return None if isinstance(error, PASSED_ON) else error
    found = re.search(r"\bos (?:error|\{ code:) (\d+)", str(error), re.IGNORECASE)
    return OSError(int(found[1]), os.strerror(int(found[1]))) if found else None


def in_words(error: OSError, path: object = None) -> str:
    """One line: the path, the cause, and what to do. `path` is named where the error names none."""
    named = error.filename2 or error.filename or path
    where = os.fsdecode(named) if isinstance(named, str | bytes | os.PathLike) else "a file"
    return f"{where}: {_cause(error)}; {_remedy(error)}"


def _cause(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__


def _remedy(error: OSError) -> str:
    return REMEDIES.get(error.errno or 0, "choose another path")


def not_written(path: Path | str, error: OSError) -> UserError:
    """That a file was not written; what stood there before is as it was."""
    return UserError(
        f"{path}: cannot be written ({_cause(error)}); what was finished before is kept; "
        f"{_remedy(error)}"
    )


def not_removed(path: Path | str, error: OSError) -> UserError:
    """That a file or a folder is still there."""
    return UserError(f"cannot be removed: {in_words(error, path)}")


@contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """Turn what the system refuses in this block into a UserError that names `path`."""
    try:
        yield
    except Exception as error:
        found = os_error(error)
        if found is None:
            raise
        raise not_written(path, found) from error
