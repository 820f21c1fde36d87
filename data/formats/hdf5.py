"""HDF5 files of episodes: what may be read of one, and the plain format of any of them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from alltrades.data.formats.diffusion_policy import pictures
from alltrades.data.formats.pictures import decode, is_packed
from alltrades.data.formats.recording import Column, Recording, Refusal, bounded, guarded

SUFFIXES = (".hdf5", ".h5", ".hdf")
DEPTH = 8  # groups inside groups
MANY = 10_000  # names in a group of one episode
TEXTS = ("task", "instruction", "language_instruction", "lang", "language_raw", "prompt")


def opened(path: Path) -> Any:
    """The file, open for reading."""

    def read() -> Any:
        import h5py

        return h5py.File(path, "r", locking=False)

    return guarded(path, read)


def inside(where: str, group: Any, name: str) -> Any:
    """What stands below a group under a name such as "data/demo_0".

    Raises `Refusal` where a link on the way leads elsewhere, to another file too.
    """
    import h5py

    for part in filter(None, name.split("/")):
        link = guarded(where, partial(group.get, part, getlink=True))
        if isinstance(link, h5py.ExternalLink | h5py.SoftLink):
            raise Refusal(
                f"{where}: '{part}' is a link to {str(link.path)[:60]!r}; expected the array "
                "itself; copy it into the file"
            )
        group = guarded(where, group.__getitem__, part)
    return group


def arrays(
    where: str, group: Any, prefix: str = "", seen: frozenset[int] | None = None
) -> Iterator[tuple[str, Any]]:
    """(name below the group, data set) of every array, sorted.

    Raises `Refusal` for links to other files, for arrays whose numbers stand in other files (they
    may lead anywhere), for groups inside themselves, and for more than MANY names.
    """
    import h5py

    seen = (seen or frozenset()) | {h5py.h5o.get_info(group.id).addr}
    if len(seen) > DEPTH + 1:
        raise Refusal(f"{where}: groups deeper than {DEPTH}; expected fewer; leave it out")
    if len(group) > MANY:
        raise Refusal(f"{where}: {len(group)} names in a group; expected at most {MANY}")
    for name in sorted(group, key=natural):
        at, found = f"{prefix}{name}", inside(where, group, name)
        if isinstance(found, h5py.Group):
            if h5py.h5o.get_info(found.id).rc > 1:
                raise Refusal(
                    f"{where}: the group '{at}' stands in several places; expected one; copy it"
                )
            yield from arrays(where, found, f"{at}/", seen)
        elif isinstance(found, h5py.Dataset):
            if found.is_virtual or found.external:
                raise Refusal(
                    f"{where}: '{at}' has its numbers in another file; expected them in this one; "
                    "copy them"
                )
            yield at, found


def text_of(value: Any) -> str:
    """A string of HDF5."""
    value = value.reshape(-1)[0] if isinstance(value, np.ndarray) and value.size else value
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def natural(name: str) -> list[Any]:
    """Sorts demo_2 before demo_10."""
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in re.split(r"(\d+)", name)]


class Hdf5(Recording):
    """Any HDF5 files: each an episode, or groups of one file that have the same arrays.

    Attributes:
        places: (file, group) of each episode; "" is the whole file.
    """

    plain: ClassVar[bool] = True

    @classmethod
    def recognises(cls, path: Path) -> bool:
        files = files_of(path)
        if not files:
            return False
        with opened(files[0]) as file:
            return cls._is_like(file)

    @classmethod
    def _is_like(cls, root: Any) -> bool:
        """Whether a file's groups are those of the format."""
        return True

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._open: tuple[Path, Any] | None = None
        files = files_of(path)
        if not files:
            raise Refusal(f"{path}: no HDF5 files; expected some; check the path")
        self.places = [(file, group) for file in files for group in self._groups(file)]
        if not self.places:
            raise Refusal(f"{path}: no episodes; expected at least one; check the file")
        self._describe()

    # ---- what there is ---------------------------------------------------------------------------
    def _groups(self, file: Path) -> list[str]:
        """Episodes of a file: groups of the same arrays, or the file as a whole."""
        import h5py

        root = self.file(file)
        names = sorted(root, key=natural)
        links = [root.get(n, getlink=True) for n in names]
        if not names or not all(isinstance(link, h5py.HardLink) for link in links):
            return [""]
        groups = guarded(file, lambda: [root[n] for n in names])
        if not all(isinstance(g, h5py.Group) for g in groups):
            return [""]
        held = [sorted(name for name, _ in arrays(str(file), g)) for g in groups]
        same = all(h == held[0] for h in held) and bool(held[0])
        return names if same and (len(names) > 1 or re.search(r"\d$", names[0])) else [""]

    def _describe(self) -> None:
        """Columns by the first episode."""
        where, group = self.where(0), self.group(0)
        for key, data in guarded(where, lambda: list(arrays(where, group))):
            column = guarded(f"{where}: '{key}'", self._column, key, data)
            if column is None:
                self.left_out[key] = f"of type {data.dtype}; expected numbers or text"
            else:
                self.columns[key] = column
        self._texts(group)

    def _texts(self, group: Any) -> None:
        """An instruction among the arrays or the attributes."""
        for key, column in self.columns.items():
            if column.kind == "text" and key.rpartition("/")[2] in TEXTS:
                self.instruction = self.instruction or key
        if self.instruction is None:
            name = next((n for n in TEXTS if n in group.attrs), None)
            if name is not None:
                self.columns[f"@{name}"] = Column((), "str", "text")
                self.instruction = f"@{name}"

    def _column(self, key: str, data: Any) -> Column | None:
        import h5py

        if h5py.check_string_dtype(data.dtype) is not None or data.dtype.kind == "S":
            return Column((), "str", "text") if data.size else None
        bounded(key, _chunk(data))  # whose first row is looked at
        if h5py.check_vlen_dtype(data.dtype) is not None or self._packs(key, data):
            first = guarded(key, lambda: decode(key, np.asarray(data[0], np.uint8).tobytes()))
            return Column(first.shape, first.dtype.name, "image")
        if data.dtype.kind not in "biuf":
            return None
        shape = tuple(data.shape[1:])
        return Column(shape, data.dtype.name, "image" if pictures(shape) else "numbers")

    def _packs(self, key: str, data: Any) -> bool:
        """Whether an array is packed pictures, one a row, filled up to the longest."""
        rows = data.ndim == 2 and data.dtype == np.uint8 and len(data)
        return bool(rows) and is_packed(data[0, :4].tobytes())

    # ---- reading ---------------------------------------------------------------------------------
    def file(self, path: Path) -> Any:
        """An open file; the one before is closed."""
        if self._open is None or self._open[0] != path:
            self.close()
            self._open = (path, opened(path))
        return self._open[1]

    def close(self) -> None:
        if self._open is not None:
            self._open[1].close()
        self._open = None

    def __len__(self) -> int:
        return len(self.places)

    def where(self, i: int) -> str:
        file, group = self.places[i]
        return f"{file}: {group}" if group else str(file)

    def group(self, i: int) -> Any:
        """The group of episode i."""
        file, name = self.places[i]
        return inside(self.where(i), self.file(file), name)

    def read(self, i: int, keys: Collection[str]) -> dict[str, Any]:
        where, group = self.where(i), self.group(i)
        held = guarded(where, lambda: dict(arrays(where, group)))
        out: dict[str, Any] = {}
        chosen = [k for k in keys if not k.startswith("@")]
        for key in chosen:
            if key not in held:
                raise Refusal(
                    f"{where}: no '{key}'; expected it as in {self.where(0)}; leave the episode out"
                )
        bounded(where, sum(_size(held[k]) for k in chosen))
        for key in chosen:
            out[key] = guarded(
                f"{where}: '{key}'", self.values, f"{where}: '{key}'", key, held[key]
            )
        for key in set(keys) - set(chosen):
            out[key] = guarded(where, self.attribute, group, key[1:])
        return out

    def attribute(self, group: Any, name: str) -> str:
        """A text that stands in the attributes of an episode."""
        return text_of(group.attrs[name])

    def values(self, where: str, key: str, data: Any) -> Any:
        """The values of an array of one episode."""
        column = self.columns[key]
        if column.kind == "text":
            value = data[()]
            if data.shape == ():
                return text_of(value)
            return np.array([text_of(v) for v in value.reshape(-1)], dtype=object)
        if column.kind == "image" and data.ndim in (1, 2):
            rows = data if data.ndim == 1 else data[()]
            return packed(where, [np.asarray(x, np.uint8).tobytes() for x in rows])
        value = np.asarray(data[()])
        if value.dtype.kind not in "biuf":
            raise Refusal(f"{where} has dtype {value.dtype}; expected {column.dtype}")
        if value.ndim and value.shape[1:] != column.shape:
            raise Refusal(
                f"{where} has steps of shape {value.shape[1:]}; expected {column.shape} "
                "as in the first episode; leave it out"
            )
        return value


def packed(where: str, data: list[bytes]) -> np.ndarray:
    """(T, H, W, C) of as many PNG or JPEG pictures of one shape."""
    out: np.ndarray | None = None
    for k, one in enumerate(data):
        picture = decode(f"{where}, step {k}", one)
        if out is None:
            bounded(where, picture.nbytes * len(data))
            out = np.empty((len(data), *picture.shape), picture.dtype)
        if picture.shape != out.shape[1:]:
            raise Refusal(
                f"{where}: a picture of {picture.shape} at step {k}; expected {out.shape[1:]}"
            )
        out[k] = picture
    if out is None:
        raise Refusal(f"{where}: no pictures; expected one per step")
    return out


def files_of(path: Path) -> list[Path]:
    """HDF5 files at a path: itself, or those in a folder, in order of their numbers."""
    if path.is_dir():
        found = [p for p in path.iterdir() if p.suffix in SUFFIXES and p.is_file()]
        return sorted(found, key=lambda p: natural(p.name))
    return [path] if path.suffix in SUFFIXES else []


def _size(data: Any) -> int:
    """Bytes of an array when it is read, or of its largest chunk."""
    return max(int(np.prod(data.shape, dtype=object)) * data.dtype.itemsize, _chunk(data))


def _chunk(data: Any) -> int:
    """Bytes of a chunk of an array, which are unpacked together."""
    return int(np.prod(data.chunks, dtype=object)) * data.dtype.itemsize if data.chunks else 0
