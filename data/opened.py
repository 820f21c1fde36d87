"""The stores that one piece of work reads: each is opened once for each of its commits, so that its
description is read once however many ask for it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path

from alltrades.data.commit import checksum_of
from alltrades.data.store import EpisodeStore
from alltrades.system.remote.place import place

MOST = 8  # stores that are kept: each has its index, and decoded chunks of 16 MB at most


class Stores:
    """Stores that are open for reading. A commit never changes, and whoever asks gets the one that
    is there: a store that was written since is opened anew. Threads may share it.

    Those that were asked for last are kept; stores of older and foreign formats, which have no
    commit to tell them by, are opened each time.
    """

    def __init__(self) -> None:
        self._open: OrderedDict[str, tuple[str, EpisodeStore]] = OrderedDict()
        self._lock = threading.Lock()

    def open(self, path: Path | str) -> EpisodeStore:
        """The store at a path or an address, as it is now; the same object while it is not written.

        Raises UserError as `EpisodeStore.open`.
        """
        path = place(path)
        name, commit = str(path), checksum_of(path)
        with self._lock:
            known, store = self._open.get(name, (None, None))
            if store is None or commit is None or known != commit:
                store = EpisodeStore.open(path)
            if commit is not None:
                self._open[name] = commit, store
                self._open.move_to_end(name)
                while len(self._open) > MOST:
                    self._open.popitem(last=False)
            return store

    def all(self, paths: Iterable[Path | str]) -> list[EpisodeStore]:
        """Several, in order."""
        return [self.open(path) for path in paths]
