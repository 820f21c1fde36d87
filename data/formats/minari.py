"""Minari data sets, HDF5 and Arrow: episodes of observations (one more than actions), actions,
rewards, infos. Read by h5py and pyarrow: Minari's own reader makes an environment where the data
does not say its spaces, which would run what a file names.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, ClassVar

from alltrades.data.formats.diffusion_policy import pictures
from alltrades.data.formats.hdf5 import Hdf5, natural, packed
from alltrades.data.formats.parquet import column_of, kind_of
from alltrades.data.formats.recording import OWN, Column, Recording, Refusal, bounded, guarded

METADATA = "metadata.json"
FORMATS = ("hdf5", "arrow", "parquet")
INFOS = ("success", "is_success", "timestamp")  # what infos tell that is no observation


def data_folder(path: Path) -> Path | None:
    """Where metadata.json stands: the path, or its data/."""
    for folder in (path / "data", path):
        if (folder / METADATA).is_file():
            return folder
    return None


class _Hdf5(Hdf5):
    """main_data.hdf5: a group per episode."""

    plain: ClassVar[bool] = False

    def _groups(self, file: Path) -> list[str]:
        return sorted(self.file(file), key=natural)


class _Arrow(Recording):
    """A folder of Arrow or parquet files per episode; the last row of actions is padding."""

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return False

    def __init__(self, path: Path, kind: str, spaces: dict[str, Any]) -> None:
        super().__init__(path)
        self.kind, self.spaces = kind, spaces
        numbers = [p for p in path.iterdir() if p.is_dir() and p.name.isdigit()]
        self.folders = sorted(numbers, key=lambda p: int(p.name))
        if not self.folders:
            raise Refusal(f"{path}: no episodes; expected a folder of each")
        for key, array in self._arrays(0, None):
            kind_, dtype = kind_of(array.type)
            where = f"{self.where(0)}: '{key}'"
            if kind_ == "text":
                self.columns[key] = Column((), "str", "text")
            elif kind_ == "numbers" or _binary(array):
                value = guarded(where, self._value, where, key, array[:1])
                shape = tuple(value.shape[1:])
                look = "image" if _binary(array) or pictures(shape) else "numbers"
                self.columns[key] = Column(shape, value.dtype.name, look)
            else:
                self.left_out[key] = f"of type {dtype}; expected numbers, images or text"

    def _arrays(self, i: int, keys: Collection[str] | None) -> Iterator[tuple[str, Any]]:
        """(key, Arrow array) of episode i."""
        import pyarrow as pa
        import pyarrow.dataset as dataset

        folder = self.folders[i]
        files = sorted(folder.glob(f"*.{self.kind}")) or sorted(folder.glob("part-*"))
        if not files:
            raise Refusal(f"{folder}: no .{self.kind} file; expected the episode's rows")
        bounded(folder, sum(f.stat().st_size for f in files))
        read = dataset.dataset([str(f) for f in files], format=self.kind)
        table = guarded(folder, lambda: read.to_table().combine_chunks())
        guarded(folder, lambda: table.validate(full=True))

        def walk(name: str, array: Any) -> Iterator[tuple[str, Any]]:
            if pa.types.is_struct(array.type):
                for k in range(array.type.num_fields):
                    field = array.type.field(k)
                    yield from walk(f"{name}/{field.name}", array.field(k))
            elif name != "episode_id" and (keys is None or name in keys):
                yield name, array

        for name in table.column_names:
            whole = table.column(name)
            yield from walk(name, whole.chunk(0) if whole.num_chunks else pa.array([], whole.type))

    def _value(self, where: str, key: str, array: Any) -> Any:
        if _binary(array):
            return packed(where, array.to_pylist())
        value = column_of(where, array)
        space = _space(self.spaces, key)
        shape = tuple(space.get("shape") or ()) if space.get("type") == "Box" else ()
        return value.reshape(len(value), *shape) if shape else value

    def __len__(self) -> int:
        return len(self.folders)

    def where(self, i: int) -> str:
        return str(self.folders[i])

    def read(self, i: int, keys: Collection[str]) -> dict[str, Any]:
        out = {}
        for key, array in self._arrays(i, keys):
            where = f"{self.where(i)}: '{key}'"
            padded = not key.startswith(("observations", "infos"))
            value = array[:-1] if padded else array
            out[key] = guarded(where, self._value, where, key, value)
        return out


class Minari(Recording):
    """Episodes of such a data set."""

    @classmethod
    def recognises(cls, path: Path) -> bool:
        folder = data_folder(path)
        return folder is not None and b"data_format" in (folder / METADATA).read_bytes()

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        folder = data_folder(path)
        if folder is None:
            raise Refusal(f"{path}: no {METADATA}; expected a Minari data set; check the path")
        file = folder / METADATA
        facts = guarded(file, lambda: json.loads(file.read_text("utf-8")))
        kind = facts.get("data_format") if isinstance(facts, dict) else None
        if kind not in FORMATS:
            raise Refusal(f"{file}: data_format {kind!r}; expected one of {', '.join(FORMATS)}")
        if kind == "hdf5":
            self._inside: Recording = _Hdf5(folder / "main_data.hdf5")
        else:
            self._inside = _Arrow(folder, kind, _spaces(file, facts))
        self.columns, self.left_out = self._inside.columns, self._inside.left_out
        self.warnings, self.instruction = self._inside.warnings, self._inside.instruction
        self.named = OWN in facts
        self.counted(str(file), facts.get("total_episodes"), len(self), "episodes")
        for key in self.columns:
            if key.startswith("infos/") and key.rpartition("/")[2] not in INFOS:
                self.left_out[key] = "told beside the observations"
            elif key.startswith("actions/"):
                self.acts.append(key)

    def __len__(self) -> int:
        return len(self._inside)

    def where(self, i: int) -> str:
        return self._inside.where(i)

    def read(self, i: int, keys: Collection[str]) -> dict[str, Any]:
        """Infos have a first row of the reset, which no action led to."""
        out = self._inside.read(i, {*keys, *[k for k in self.columns if k == "rewards"]})
        steps = len(out["rewards"]) if "rewards" in out else None
        for key, value in out.items():
            if key.startswith("infos/") and steps is not None and len(value) == steps + 1:
                out[key] = value[1:]
            elif key.startswith("observations") and steps is not None and len(value) == steps + 1:
                out[key] = value[:-1]
        return {k: v for k, v in out.items() if k in keys}

    def close(self) -> None:
        self._inside.close()


def _binary(array: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_binary(array.type) or pa.types.is_large_binary(array.type))


def _spaces(file: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Spaces of observations and actions, as metadata.json describes them."""
    return {
        name: guarded(file, json.loads, facts.get(key) or "{}")
        for name, key in (("observations", "observation_space"), ("actions", "action_space"))
    }


def _space(spaces: dict[str, Any], key: str) -> dict[str, Any]:
    """The space of a key such as "observations/images/front"; empty where none is described."""
    first, *rest = key.split("/")
    found = spaces.get(first, {})
    for name in rest:
        inner = found.get("subspaces") if isinstance(found, dict) else None
        found = inner.get(name, {}) if isinstance(inner, dict) else {}
    return found if isinstance(found, dict) else {}
