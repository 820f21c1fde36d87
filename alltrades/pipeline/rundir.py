"""The run folder: atomic files, one run at a time, and stages under which it resumes after a kill
at any moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from alltrades.data.commit import refuse_store
from alltrades.errors import UserError
from alltrades.pipeline.manifest import Manifest
from alltrades.system.lock import Lock

ACCOUNT = ".stage"  # sub-folder of an artifact or output: manifest, checkpoints, own weights


class RunDir:
    """A run's folder. Open it with `with` to write stages: two runs in one folder are refused.

    Args:
        path: the folder, made when it is not there.
        seed: the run's seed; None reads whatever run is there.
        relatives: folders of other runs; a stage that one of them finished with the same inputs is
            copied from there.
        what: what the folder is, for messages.
        account: sub-folder of the manifest and of checkpoints, where the folder itself is an
            artifact.

    Raises:
        UserError: on entering, when another process holds the folder, when it cannot be written,
            when it is a store of episodes, or holds finished stages of another seed or of another
            format.
    """

    def __init__(
        self,
        path: Path | str,
        seed: int | None = None,
        relatives: Sequence[Path] = (),
        what: str = "run folder",
        account: str = "",
    ) -> None:
        self.path = Path(path)
        self.manifest = Manifest(self.path, seed, relatives, self.path / account)
        self._what, self._lock = what, Lock(self.path, what)

    def __enter__(self) -> RunDir:
        refuse_store(self.path, self._what)
        self._refuse_other()
        self._lock.acquire()
        try:
            self.manifest.open()
        except BaseException:
            self._lock.release()
            raise
        return self

    def _refuse_other(self) -> None:
        """UserError for a run in a folder that is an artifact, and the other way round."""
        mine = self.manifest.path
        for folder, what in ((self.path, "a run"), (self.path / ACCOUNT, "an artifact")):
            there = folder / mine.name
            if there != mine and there.exists():
                raise UserError(
                    f"{self.path}: {what} is there already; expected another place for a "
                    f"{self._what}; choose one"
                )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.manifest.close()
        self._lock.release()
