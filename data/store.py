"""Episode stores on disk, one group of Zarr arrays per environment (format 2):

    ENV/data/FIELD (S, D) or (S, H, W, C)  ENV/data/action (S, A)  ENV/data/{reward,success} (S,)
    ENV/text/FIELD/bytes (B,)  ENV/text/FIELD/ends (E,)
    ENV/meta/episode_ends (E,)  ENV/meta/timestamp (S,)  meta/<column> (E,)  commit.json

`commit.json` is the one commit point, written last and by rename: each environment's interface, how
many episodes and steps of it count, the arrays' shapes and checksums, the names behind the codes of
the column source, provenance. Time stamps are there once an episode has some, NaN in those without.
A text is the UTF-8 bytes up to its episode's end. What lies beyond the commit does not exist: an
append that is cut short never happened. The columns of meta/ are over all episodes in the order of
appending; an environment's own are in that order too.

One process writes at a time (see `alltrades.system.lock`), or several a shard each, which one
commit takes (see `alltrades.data.shards`); readers need no lock. A store may be an address in an
object store (see `alltrades.system.remote`): its writer holds a lease, and the commit is a
conditional put. Stores of format 1 and foreign ones of the Diffusion Policy layout are read as they
are, on disks alone (see `alltrades.data.flat`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from alltrades.data.chunks import write_group
from alltrades.data.columns import Columns
from alltrades.data.commit import COMMIT, FORMAT_VERSION, read_commit, write_commit, writer_of
from alltrades.data.episode import Episode
from alltrades.data.groups import Group
from alltrades.data.interface import Interface
from alltrades.data.readable import ReadableStore
from alltrades.errors import UserError
from alltrades.system.files import remove
from alltrades.system.lock import NAME as LOCK
from alltrades.system.lock import Lock
from alltrades.system.remote.lease import CLOCK, Lease
from alltrades.system.remote.place import RemotePath, place

BATCH = 1024  # episodes that `extend` keeps in memory
BATCH_BYTES = 2**24
WRITERS = 8  # threads: most of an append's time is waiting for the file system


class EpisodeStore(ReadableStore):
    """Episodes on disk. Open with `create` or `open`; memory stays bounded by one append.

    A store that is open for writing is locked until `close`, the end of a `with` block, or the end
    of its process. Every reading method raises UserError, in one line that names the file, for what
    is missing or is not what was written.
    """

    def __init__(
        self, path: Path, commit: dict[str, Any] | None, lock: Lock | Lease | None = None
    ) -> None:
        self._lock = lock
        super().__init__(path, commit, lock if isinstance(lock, Lease) else None)

    # ---- opening ---------------------------------------------------------------------------------
    @classmethod
    def create(
        cls,
        path: Path | str,
        interfaces: Sequence[Interface] = (),
        provenance: dict[str, Any] | None = None,
    ) -> EpisodeStore:
        """A new, empty store, in a new or an empty folder, open for writing.

        `interfaces` describe environments; of others fields and sizes come with the first episode.
        Raises UserError when anything else is there, and when another process is writing there.
        """
        path = place(path)
        if not isinstance(path, RemotePath) and path.exists() and not path.is_dir():
            raise _something_else(path)
        lock = writer_of(path)
        lock.acquire()
        try:
            if (path / COMMIT).exists():
                raise UserError(
                    f"{path}: a store is there already; expected a new path; open it with mode "
                    "'a', or delete it"
                )
            if not all(_begun(file) for file in path.iterdir()):
                raise _something_else(path)
            commit = {
                "format_version": FORMAT_VERSION,
                "episodes": 0,
                "steps": 0,
                "environments": [],
                "columns": Columns(path).to_json(),
                "provenance": provenance or {},
            }
            store = cls(path, commit, lock)
            write_group(path, store._cache)
            store.declare(interfaces)
            return store
        except BaseException:
            lock.release()
            raise

    @classmethod
    def open(cls, path: Path | str, mode: str = "r") -> EpisodeStore:
        """An existing store, ours or a foreign one of the same layout (Zarr 2 or 3; read only).

        Raises UserError when there is none, when it cannot be read, and in mode "a" when another
        process is writing it.
        """
        path = place(path)
        if not isinstance(path, RemotePath) and not path.is_dir():
            raise UserError(
                f"{path}: no such store; expected a Zarr folder; check the path, or use `alltrades "
                "collect`"
            )
        commit = read_commit(path)
        if commit is None and isinstance(path, RemotePath):
            raise UserError(
                f"{path}: no such store (commit.json is missing); expected one that alltrades "
                "wrote; check the address"
            )
        if mode != "a":
            return cls(path, commit)
        if commit is None:
            cls(path, None)  # or nothing that can be read
            raise UserError(
                f"{path}: a foreign store is read as it is and never written; copy it with "
                "`alltrades run --data`"
            )
        if commit["format_version"] < FORMAT_VERSION:
            raise UserError(
                f"{path}: store format {commit['format_version']}, which is read and no longer "
                f"written; expected {FORMAT_VERSION}; copy it: EpisodeStore.write(NEW, "
                "EpisodeStore.open(OLD).episodes())"
            )
        lock = writer_of(path)
        lock.acquire()
        try:
            return cls(path, read_commit(path), lock)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def write(
        cls,
        path: Path | str,
        episodes: Iterable[Episode],
        provenance: dict[str, Any] | None = None,
    ) -> EpisodeStore:
        """A new store with these episodes, open for reading. A few are in memory at a time.

        Where `episodes` raises, the store keeps those before; without any there is none.
        """
        with cls.create(path, provenance=provenance) as store:
            try:
                store.extend(episodes)
            except BaseException:
                if not len(store) and not isinstance(store.path, RemotePath):
                    remove(store.path)
                raise
        return cls.open(path)

    def close(self) -> None:
        """Let others write; reading goes on."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> EpisodeStore:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # ---- writing ---------------------------------------------------------------------------------
    def append(self, episodes: Iterable[Episode]) -> None:
        """Add whole episodes: all of them or, when cut short, none. O(rows added), however long the
        store.

        Raises UserError for an environment's episodes of other fields, shapes or action size than
        the store holds of it.
        """
        episodes = list(episodes)
        self._writable()
        if not episodes:
            return
        self._make_commit(*self._extended(self._groups, self._columns, episodes))

    def extend(self, episodes: Iterable[Episode]) -> None:
        """Append episodes, however many: in parts of BATCH, or of about BATCH_BYTES, which are all
        that is in memory. What is cut short keeps the parts before.
        """
        for part in _parts(episodes):
            self.append(part)

    def merge(
        self,
        stores: Iterable[ReadableStore],
        names: Callable[[Any], Mapping[str, str]] | None = None,
        tokens: Sequence[str] = (),
    ) -> None:
        """Append the episodes of other stores, one store after another, and what these say of their
        environments: all of it by one commit or, when cut short, nothing. Memory as of `extend`.

        Args:
            names: of a store's environments in this one, where they are others.
            tokens: which `merged` is then.

        Raises UserError as `append` and `declare` do.
        """
        self._writable()
        groups, columns = dict(self._groups), self._columns
        for store in stores:
            other = {} if names is None else names(store)
            for name, interface in store.interfaces().items():
                known = replace(interface, id=other.get(name, name))
                groups[known.id] = self._group(groups, known.id).declared(known)
            for part in _parts(store.episodes()):
                if other:
                    part = [
                        replace(e, environment=other.get(e.environment, e.environment))
                        for e in part
                    ]
                groups, columns = self._extended(groups, columns, part)
        self._make_commit(groups, columns, merged=list(tokens))

    @property
    def merged(self) -> list[str]:
        """Tokens of what the last `merge` appended."""
        return list((self._commit or {}).get("merged", ()))

    def declare(self, interfaces: Sequence[Interface]) -> None:
        """Describe environments; UserError where the store holds other fields, action sizes or
        rates.
        """
        self._writable()
        groups = dict(self._groups)
        for interface in interfaces:
            groups[interface.id] = self._group(groups, interface.id).declared(interface)
        self._make_commit(groups)

    def set_provenance(self, **facts: Any) -> None:
        """Record where the episodes come from."""
        self._writable()
        self._make_commit(self._groups, provenance={**self.provenance, **facts})

    def begin_again(self, interfaces: Sequence[Interface], provenance: dict[str, Any]) -> None:
        """Be as `create` makes one, of other environments or another origin.

        Raises UserError where there are episodes, which would be lost.
        """
        if len(self):
            raise UserError(
                f"{self.path}: {len(self)} episodes; expected none; choose another path"
            )
        groups = {i.id: Group.named(self.path, i.id).declared(i) for i in interfaces}
        self._make_commit(groups, Columns(self.path), provenance=provenance)

    def _group(self, groups: Mapping[str, Group], environment: str) -> Group:
        return groups.get(environment) or Group.named(self.path, environment)

    def _extended(
        self, groups: Mapping[str, Group], columns: Columns, episodes: Sequence[Episode]
    ) -> tuple[dict[str, Group], Columns]:
        """Groups and columns with more episodes, which are on disk when this returns and count when
        the store commits.
        """
        of_environment: dict[str, list[Episode]] = {}
        for e in episodes:
            of_environment.setdefault(e.environment, []).append(e)
        names = list(dict.fromkeys([*groups, *of_environment]))

        def extended(environment: str) -> Group:
            group = self._group(groups, environment)
            return group.extended(of_environment[environment], self._cache)

        with ThreadPoolExecutor(min(WRITERS, len(of_environment) + 1)) as pool:
            added = pool.submit(columns.extended, episodes, names, self._cache)
            grown = dict(zip(of_environment, pool.map(extended, of_environment)))
        return {**groups, **grown}, added.result()

    def _writable(self) -> tuple[dict[str, Any], Lock | Lease]:
        if self._lock is None or self._commit is None:
            raise UserError(f"{self.path}: opened for reading; open it with mode 'a' to append")
        return self._commit, self._lock

    def _make_commit(
        self, groups: dict[str, Group], columns: Columns | None = None, **facts: Any
    ) -> None:
        columns, (before, writer) = columns or self._columns, self._writable()
        commit = {
            **before,
            **facts,
            "columns": columns.to_json(),
            "environments": [g.to_json() for g in groups.values()],
            "episodes": sum(g.episodes for g in groups.values()),
            "steps": sum(g.steps for g in groups.values()),
        }
        if not commit.get("merged", True):
            del commit["merged"]
        write_commit(self.path, commit, writer)
        self._commit, self._groups, self._columns = commit, groups, columns
        self._contents = self._steps = self._digest = None


def _parts(episodes: Iterable[Episode]) -> Iterator[list[Episode]]:
    """Up to BATCH of them, or about BATCH_BYTES, at a time."""
    part: list[Episode] = []
    size = 0
    for episode in episodes:
        part.append(episode)
        size += episode.nbytes
        if len(part) == BATCH or size >= BATCH_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


def _begun(file: Path) -> bool:
    """Whether a file is one that `create` writes before its commit."""
    if isinstance(file, RemotePath):
        return file.name in (LOCK, CLOCK, "zarr.json")
    return file.is_file() and file.name in (
        LOCK,
        "zarr.json",
        ".zarr.json.partial",
        f".{COMMIT}.partial",
    )


def _something_else(path: Path) -> UserError:
    return UserError(
        f"{path}: something is there already that is no store of ours; expected a new or an empty "
        "folder; choose another path"
    )
