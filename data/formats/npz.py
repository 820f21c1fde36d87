"""Folders of .npz files, each an episode; or one file with episodes one after another, cut by its
array `episode_ends`.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from alltrades.data.formats.archives import load_npz, shapes_of_npz
from alltrades.data.formats.diffusion_policy import pictures
from alltrades.data.formats.hdf5 import TEXTS, natural
from alltrades.data.formats.recording import Column, Recording, Refusal

ENDS = "episode_ends"
MAP = "map.yaml"  # which exports write beside the files


class Npz(Recording):
    """Episodes of such files. Arrays of Python objects are refused: they are pickled."""

    plain: ClassVar[bool] = True

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return bool(_files(path))

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.files = _files(path)
        self.named = (path / MAP).is_file()
        if not self.files:
            raise Refusal(f"{path}: no .npz files; expected some; check the path")
        self._loaded: tuple[Path, dict[str, np.ndarray]] | None = None
        shapes = shapes_of_npz(self.files[0])
        self.ends: np.ndarray | None = None
        if len(self.files) == 1 and ENDS in shapes:
            ends = load_npz(self.files[0], [ENDS])[ENDS]
            if (
                ends.ndim != 1
                or ends.dtype.kind not in "iu"
                or (np.diff(ends, prepend=0) < 1).any()
            ):
                raise Refusal(
                    f"{self.files[0]}: '{ENDS}' does not increase from above 0; expected "
                    "one row count per episode"
                )
            self.ends = ends.astype(np.int64)
        for key, (shape, dtype) in shapes.items():
            if key == ENDS:
                continue
            if dtype.kind == "U":
                self.columns[key] = Column((), "str", "text")
                if key in TEXTS:
                    self.instruction = self.instruction or key
            elif dtype.kind in "biuf" and not dtype.hasobject:
                kind = "image" if pictures(shape[1:]) else "numbers"
                self.columns[key] = Column(shape[1:], dtype.name, kind)
            else:
                self.left_out[key] = f"of type {dtype}; expected numbers or text"
                self.warn(f"{self.files[0]}: '{key}' is {self.left_out[key]}; left out")

    def _load(self, file: Path) -> dict[str, np.ndarray]:
        if self._loaded is None or self._loaded[0] != file:
            self._loaded = file, load_npz(file, self.columns)
        return self._loaded[1]

    def __len__(self) -> int:
        return len(self.files) if self.ends is None else len(self.ends)

    def where(self, i: int) -> str:
        return str(self.files[i]) if self.ends is None else f"{self.files[0]}: episode {i}"

    def read(self, i: int, keys: Collection[str]) -> dict[str, Any]:
        where = self.where(i)
        held = self._load(self.files[i if self.ends is None else 0])
        out: dict[str, Any] = {}
        for key in keys:
            if key not in held:
                raise Refusal(
                    f"{where}: no '{key}'; expected it as in {self.where(0)}; leave the episode out"
                )
            value = held[key]
            if self.ends is not None and value.ndim:
                start, stop = int(self.ends[i - 1]) if i else 0, int(self.ends[i])
                last = int(self.ends[-1])
                if len(value) not in (last, len(self.ends)):
                    raise Refusal(
                        f"{where}: '{key}' has {len(value)} rows; expected {last} as '{ENDS}' says"
                    )
                value = value[start:stop] if len(value) == last else value[i]
            out[key] = str(value) if value.dtype.kind == "U" and value.ndim == 0 else value
        return out


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(path.glob("*.npz"), key=lambda p: natural(p.name))
    return [path] if path.suffix == ".npz" else []
