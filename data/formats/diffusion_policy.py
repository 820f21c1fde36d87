"""Zarr stores of the layout that Diffusion Policy made common: data/KEY (S, ...), episodes one
after another, and meta/episode_ends (E,); a folder or a .zarr.zip, Zarr 2 or 3.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from alltrades.data.fields import CHANNELS
from alltrades.data.formats.archives import check_zarr, check_zip
from alltrades.data.formats.blocks import Blocks
from alltrades.data.formats.convert import fits
from alltrades.data.formats.recording import Column, Recording, Refusal, guarded

ENDS = "meta/episode_ends"


class DiffusionPolicy(Recording):
    """Episodes of such a store."""

    @classmethod
    def recognises(cls, path: Path) -> bool:
        if path.is_dir():
            return (path / "meta" / "episode_ends").is_dir() and (path / "data").is_dir()
        return path.suffix == ".zip" and path.stem.endswith(".zarr")

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        import zarr

        self._archive = None if path.is_dir() else check_zip(path)
        facts = self._descriptions()
        if self._archive is not None:
            self._archive.close()
        store = str(path) if path.is_dir() else zarr.storage.ZipStore(path, mode="r")
        root: Any = guarded(path, lambda: zarr.open_group(store, mode="r"))
        if ENDS not in facts:
            raise Refusal(f"{path}: no {ENDS}; expected where each episode ends; restore it")
        check_zarr(f"{path}/{ENDS}", facts[ENDS])
        ends = guarded(f"{path}/{ENDS}", lambda: np.asarray(root[ENDS][:]))
        if ends.ndim != 1 or ends.dtype.kind not in "iu" or (np.diff(ends, prepend=0) <= 0).any():
            raise Refusal(
                f"{path}/{ENDS}: does not increase from above 0; expected one row count "
                "per episode; restore it from a copy"
            )
        self.ends = ends.astype(np.int64)
        self._blocks: dict[str, Blocks] = {}
        for name in sorted(facts):
            if name.startswith("data/"):
                self._add(name, root, facts[name])

    def _add(self, name: str, root: Any, facts: dict[str, Any]) -> None:
        where, key = f"{self.path}/{name}", name.removeprefix("data/")
        try:
            check_zarr(where, facts)
        except Refusal as refusal:
            self.left_out[key] = str(refusal)
            self.warn(str(refusal))
            return
        array = guarded(where, lambda: root[name])
        steps = int(self.ends[-1]) if len(self.ends) else 0
        if not array.shape or array.shape[0] < steps:
            raise Refusal(
                f"{where}: shape {array.shape}; expected {steps} rows as {ENDS} says; restore it "
                "from a copy"
            )
        if array.shape[0] > steps:
            self.warn(
                f"{name} has {array.shape[0]} rows and {ENDS} ends at {steps}; the rest is "
                "no episode's and left out"
            )
        shape, dtype = tuple(array.shape[1:]), np.dtype(array.dtype)
        self.columns[key] = Column(shape, dtype.name, "image" if pictures(shape) else "numbers")
        row = int(np.prod(shape)) * dtype.itemsize
        self._blocks[key] = Blocks(lambda a, b: array[a:b], steps, row)

    def _descriptions(self) -> dict[str, dict[str, Any]]:
        """Each array's zarr.json or .zarray, by its name."""
        found: dict[str, dict[str, Any]] = {}
        if self._archive is None:
            names = [p.relative_to(self.path).as_posix() for p in self._files()]
        else:
            names = self._archive.namelist()
        for name in names:
            folder, _, file = name.rpartition("/")
            if file not in ("zarr.json", ".zarray"):
                continue
            facts = guarded(f"{self.path}/{name}", self._facts, name)
            if isinstance(facts, dict) and (file == ".zarray" or facts.get("node_type") == "array"):
                found[folder] = facts
        return found

    def _files(self) -> list[Path]:
        folders = [self.path / "data", self.path / "meta"]
        below = [p for folder in folders for p in sorted(folder.glob("*"))]
        return [
            p / name for p in below for name in ("zarr.json", ".zarray") if (p / name).is_file()
        ]

    def _facts(self, name: str) -> Any:
        if self._archive is None:
            return json.loads((self.path / name).read_bytes())
        return json.loads(self._archive.read(name))

    def __len__(self) -> int:
        return len(self.ends)

    def read(self, i: int, keys: Collection[str]) -> dict[str, Any]:
        start, stop = int(self.ends[i - 1]) if i else 0, int(self.ends[i])
        fits(self.where(i), {k: self.columns[k] for k in keys}, stop - start)
        return {
            key: guarded(f"{self.path}/data/{key}", self._blocks[key].read, start, stop)
            for key in keys
        }


def pictures(shape: tuple[int, ...]) -> bool:
    """Whether rows of this shape are pictures: three axes, one of them of 1, 3 or 4 channels, the
    others longer than that.
    """
    if len(shape) != 3:
        return False
    return (shape[2] in CHANNELS and min(shape[:2]) > 4) or (
        shape[0] in CHANNELS and min(shape[1:]) > 4
    )
