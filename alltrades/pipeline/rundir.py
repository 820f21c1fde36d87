"""The run folder: atomic files, one run at a time, and stages under which it resumes after a kill
at any moment.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from alltrades.pipeline.manifest import Manifest
from alltrades.system.files import slug, write_json, write_text
from alltrades.system.lock import Lock


class RunDir:
    """A run's folder. Open it with `with` to write stages: two runs in one folder are refused.

    Args:
        path: the folder, made when it is not there.
        seed: the run's seed; None reads whatever run is there.
        relatives: folders of other runs; a stage that one of them finished with the same inputs is
            copied from there.

    Raises:
        UserError: on entering, when another process holds the folder, when it cannot be written, or
            when it holds finished stages of another seed or of another format.
    """

    def __init__(
        self, path: Path | str, seed: int | None = None, relatives: Sequence[Path] = ()
    ) -> None:
        self.path, self.relatives = Path(path), tuple(Path(p) for p in relatives)
        self.manifest = Manifest(self, seed)
        self._lock = Lock(self.path, "run folder")

    @property
    def locked(self) -> bool:
        return self._lock.held

    def __enter__(self) -> RunDir:
        self._lock.acquire()
        try:
            self.manifest.open()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.release()

    def work(self, stage: str) -> Path:
        """Folder for the stage's own partial files (checkpoints); emptied when the stage is
        done.
        """
        return self.path / "work" / slug(stage)

    def write_text(self, name: str, text: str) -> None:
        """Atomic write of a file in the folder."""
        write_text(self.path / name, text)

    def write_json(self, name: str, value: Any) -> None:
        """Atomic write of a JSON file in the folder."""
        write_json(self.path / name, value)


def policy_digest(folder: Path) -> str:
    """Digest of a policy artifact."""
    return json.loads((folder / "policy.json").read_text())["digest"]


def policy_digests(folder: Path) -> dict[str, str]:
    """Digest of an artifact, or of every artifact below a folder."""
    files = (
        [folder / "policy.json"]
        if (folder / "policy.json").exists()
        else sorted(folder.glob("*/policy.json"))
    )
    return {f.parent.name: json.loads(f.read_text())["digest"] for f in files}
