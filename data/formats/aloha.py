"""Folders of ACT and ALOHA: episode_N.hdf5 with observations/qpos, observations/images/, action."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from alltrades.data.formats.hdf5 import Hdf5, inside

CAMERAS = "observations/images/"


class Aloha(Hdf5):
    """Episodes of such a folder; pictures may be packed, one JPEG a row."""

    plain: ClassVar[bool] = False

    @classmethod
    def _is_like(cls, root: Any) -> bool:
        if "action" not in root or "observations" not in root:
            return False
        return "qpos" in inside(root.filename, root, "observations")

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        if "compress_len" in self.columns:
            self.left_out["compress_len"] = "lengths of packed pictures"

    def _groups(self, file: Path) -> list[str]:
        return [""]

    def _packs(self, key: str, data: Any) -> bool:
        return key.startswith(CAMERAS) and data.ndim == 2 and data.dtype == np.uint8
