"""Files that survive a kill, and digests of what they hold."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import shutil
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import unquote

from alltrades.errors import UserError
from alltrades.system.refusals import not_removed, writing

_STREAM = re.compile(r"/dev/(stdin|stdout|stderr)|(?:/dev|/proc/self)/fd/(\d+)")


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
    After an error the old file stays and the temporary one is removed. Links are followed, and a
    file keeps its rights; devices, pipes and this process's own streams are written to, not
    replaced.

    Raises UserError, with the path and what to do, where the system refuses: no space, no right.
    """
    path = Path(path)
    with writing(path):
        target, mode = _target(path)
        if target is None:
            with TemporaryDirectory(prefix="alltrades-") as folder:
                partial = Path(folder) / "partial"
                yield partial
                _pour(partial, path)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(_partial(target.name))
        try:
            yield partial
            if mode is not None:
                partial.chmod(mode)
            _sync(partial)
            partial.replace(target)
        except BaseException:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise
        _sync(target.parent)


def check_writable(path: Path | str) -> None:
    """UserError where a file cannot be written at `path`: before hours of work, not after them.
    Leaves nothing behind but its folder.
    """
    path = Path(path)
    with writing(path):
        target, _ = _target(path)
        if target is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(_partial(target.name))
            partial.touch()
            partial.unlink()


def check_json(path: Path | str) -> None:
    """`check_writable`, and UserError where something else than JSON would be replaced."""
    check_writable(path)
    path = Path(path)
    try:
        if path.is_file():
            json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(
            f"{path}: something else than JSON is there; expected a new file, or one of figures to "
            "replace; choose another, or delete it"
        ) from error


def append_text(path: Path, text: str) -> None:
    """Append to a file: all of `text`, or nothing where the system refuses."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            size = file.tell()
            try:
                file.write(text.encode())
                file.flush()
            except OSError:
                file.truncate(size)
                raise


def _target(path: Path) -> tuple[Path | None, int | None]:
    """The file that a rename puts in place, and the rights of the one that is there; no path for
    what is written to instead.
    """
    if _STREAM.fullmatch(os.path.abspath(path)):
        return None, None
    real = Path(os.path.realpath(path)) if path.is_symlink() else path
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return real, None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        return None, None
    if not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    return real, stat.S_IMODE(mode)


def _partial(name: str) -> str:
    """Name of a temporary file, no longer than file systems take where `name` is not."""
    if len(os.fsencode(name)) in range(246, 256):
        name = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
    return f".{name}.partial"


def _pour(source: Path, path: Path) -> None:
    """Write a file's bytes to a device, a pipe, or a stream of this process."""
    stream = _STREAM.fullmatch(os.path.abspath(path))
    if stream:
        number = {"stdin": 0, "stdout": 1, "stderr": 2}.get(stream[1]) or int(stream[2] or 0)
        for known in (sys.stdout, sys.stderr):
            known.flush()
        out = os.dup(number)
    else:
        out = os.open(path, os.O_WRONLY)
    with source.open("rb") as file, os.fdopen(out, "wb") as to:
        shutil.copyfileobj(file, to)


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # of folders, on some network disks
            raise
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
    """Copy a file, or the files below a folder, or those in `names` only.

    Raises OSError where one is missing or cannot be read, UserError where one cannot be written.
    """
    for name in list_files(source) if names is None else names:
        to = target / name if name else target
        with (source / name if name else source).open("rb") as file:
            with writing(to):
                to.parent.mkdir(parents=True, exist_ok=True)
                with to.open("wb") as copied:
                    shutil.copyfileobj(file, copied, 2**20)
                shutil.copystat(file.name, to)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there; UserError where the system refuses."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise not_removed(path, error) from error
