"""Folders of ACT and ALOHA: episode_N.hdf5 with observations/qpos, observations/images/, action."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from alltrades.data.formats.hdf5 import Hdf5, files_of, opened, packed
from alltrades.data.formats.pictures import decode
from alltrades.data.formats.recording import Column


class Aloha(Hdf5):
    """Episodes of such a folder; pictures may be packed, one JPEG a row."""

    plain: ClassVar[bool] = False

    @classmethod
    def recognises(cls, path: Path) -> bool:
        files = files_of(path)
        if not files:
            return False
        with opened(files[0]) as file:
            return "action" in file and "observations" in file and "qpos" in file["observations"]

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        if "compress_len" in self.columns:
            self.left_out["compress_len"] = "lengths of packed pictures"

    def _groups(self, file: Path) -> list[str]:
        return [""]

    def _column(self, key: str, data: Any) -> Column | None:
        """A picture that is packed is a row of bytes."""
        if key.startswith("observations/images/") and data.ndim == 2 and data.dtype == np.uint8:
            first = decode(key, data[0].tobytes())
            return Column(first.shape, first.dtype.name, "image")
        return super()._column(key, data)

    def values(self, where: str, key: str, data: Any) -> Any:
        if self.columns[key].kind == "image" and data.ndim == 2:
            return packed(where, [row.tobytes() for row in data[()]])
        return super().values(where, key, data)
