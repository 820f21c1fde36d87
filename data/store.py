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

One process writes at a time (see `alltrades.system.lock`); readers need no lock. Stores of format 1
and foreign ones of the Diffusion Policy layout are read as they are (see `alltrades.data.flat`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from alltrades.data.chunks import ChunkCache, write_group
from alltrades.data.columns import Columns
from alltrades.data.commit import COMMIT, FORMAT_VERSION, read_commit, write_commit
from alltrades.data.contents import Contents
from alltrades.data.description import of_environment, of_origin, of_sources
from alltrades.data.episode import Episode
from alltrades.data.flat import FlatStore
from alltrades.data.groups import Group
from alltrades.data.interface import Interface
from alltrades.data.rows import Rows
from alltrades.data.steps import Steps
from alltrades.errors import UserError
from alltrades.system.lock import NAME as LOCK
from alltrades.system.lock import Lock

BATCH = 1024  # episodes that `extend` keeps in memory
BATCH_BYTES = 2**25
WRITERS = 8  # threads: most of an append's time is waiting for the file system


class EpisodeStore:
    """Episodes on disk. Open with `create` or `open`; memory stays bounded by one append.

    A store that is open for writing is locked until `close`, the end of a `with` block, or the end
    of its process. Every reading method raises UserError, in one line that names the file, for what
    is missing or is not what was written.
    """

    def __init__(self, path: Path, commit: dict[str, Any] | None, lock: Lock | None = None) -> None:
        self.path, self._lock, self._commit = path, lock, commit
        self.foreign = commit is None
        self._cache = ChunkCache()
        self._groups: dict[str, Group] = {}
        self._columns = Columns(path)
        self._flat: FlatStore | None = None
        self._flat_interfaces: dict[str, Interface] = {}
        if commit is None or commit["format_version"] < FORMAT_VERSION:
            self._flat = FlatStore(path, commit)
        else:
            if "columns" not in commit:
                raise UserError(
                    f"{path}: a store of format 2 as it was before it was released, without "
                    "fields; expected one that describes its environments; record it again"
                )
            for facts in commit["environments"]:
                self._groups[facts["id"]] = Group.from_json(path, facts, self._cache)
            self._columns = Columns.from_json(path, commit["columns"], self._cache)
        self._contents: Contents | None = None

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
        path = Path(path)
        if path.exists() and not path.is_dir():
            raise _something_else(path)
        lock = Lock(path, "store")
        lock.acquire()
        try:
            if (path / COMMIT).exists():
                raise UserError(
                    f"{path}: a store is there already; expected a new path; open it with mode "
                    "'a', or delete it"
                )
            if not all(_begun(file) for file in path.iterdir()):
                raise _something_else(path)
            write_group(path)
            commit = {
                "format_version": FORMAT_VERSION,
                "episodes": 0,
                "steps": 0,
                "environments": [],
                "columns": Columns(path).to_json(),
                "provenance": provenance or {},
            }
            store = cls(path, commit, lock)
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
        path = Path(path)
        if not path.is_dir():
            raise UserError(
                f"{path}: no such store; expected a Zarr folder; check the path, or use `alltrades "
                "collect`"
            )
        if mode != "a":
            return cls(path, read_commit(path))
        commit = read_commit(path)
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
        lock = Lock(path, "store")
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

        Where `episodes` raises, the store keeps those before.
        """
        with cls.create(path, provenance=provenance) as store:
            store.extend(episodes)
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
        of_environment: dict[str, list[Episode]] = {}
        for e in episodes:
            of_environment.setdefault(e.environment, []).append(e)
        groups = dict(self._groups)
        names = list(dict.fromkeys([*groups, *of_environment]))

        def extended(environment: str) -> Group:
            group = groups.get(environment) or Group.named(self.path, environment)
            return group.extended(of_environment[environment], self._cache)

        with ThreadPoolExecutor(min(WRITERS, len(of_environment) + 1)) as pool:
            columns = pool.submit(self._columns.extended, episodes, names, self._cache)
            groups |= zip(of_environment, pool.map(extended, of_environment))
        self._make_commit(groups, columns.result())

    def extend(self, episodes: Iterable[Episode]) -> None:
        """Append episodes, however many: in parts of BATCH, or of about BATCH_BYTES, which are all
        that is in memory. What is cut short keeps the parts before.
        """
        part: list[Episode] = []
        size = 0
        for episode in episodes:
            part.append(episode)
            size += episode.nbytes
            if len(part) == BATCH or size >= BATCH_BYTES:
                self.append(part)
                part, size = [], 0
        self.append(part)

    def declare(self, interfaces: Sequence[Interface]) -> None:
        """Describe environments; UserError where the store holds other fields, action sizes or
        rates.
        """
        self._writable()
        groups = dict(self._groups)
        for interface in interfaces:
            group = groups.get(interface.id) or Group.named(self.path, interface.id)
            groups[interface.id] = group.declared(interface)
        self._make_commit(groups)

    def set_provenance(self, **facts: Any) -> None:
        """Record where the episodes come from."""
        self._writable()
        self._make_commit(self._groups, provenance={**self.provenance, **facts})

    def _writable(self) -> dict[str, Any]:
        if self._lock is None or self._commit is None:
            raise UserError(f"{self.path}: opened for reading; open it with mode 'a' to append")
        return self._commit

    def _make_commit(
        self, groups: dict[str, Group], columns: Columns | None = None, **facts: Any
    ) -> None:
        columns = columns or self._columns
        commit = {
            **self._writable(),
            **facts,
            "columns": columns.to_json(),
            "environments": [g.to_json() for g in groups.values()],
            "episodes": sum(g.episodes for g in groups.values()),
            "steps": sum(g.steps for g in groups.values()),
        }
        write_commit(self.path, commit)
        self._commit, self._groups, self._columns, self._contents = commit, groups, columns, None

    # ---- reading ---------------------------------------------------------------------------------
    def __len__(self) -> int:
        return len(self._flat.ends) if self._flat is not None else self._number("episodes")

    @property
    def n_steps(self) -> int:
        """Steps of all episodes."""
        return self._flat.steps if self._flat is not None else self._number("steps")

    def _number(self, name: str) -> int:
        assert self._commit is not None
        return int(self._commit[name])

    @property
    def episode_ends(self) -> np.ndarray:
        """(E,) one past each episode's last step, in the order of appending."""
        return self._read().ends if self._flat is None else self._flat.ends

    @property
    def provenance(self) -> dict[str, Any]:
        """What the writer recorded about the origin."""
        return {} if self._commit is None else dict(self._commit["provenance"])

    def interfaces(self) -> dict[str, Interface]:
        """What is known of each environment: as it was declared, or what its episodes tell; then
        bounds, rate and time limit are None. An action size of 0 is not known yet.
        """
        if self._flat is not None:
            self._read()
            return dict(self._flat_interfaces)
        return {g.environment: g.interface for g in self._groups.values() if g.interface}

    def _read(self) -> Contents:
        if self._contents is None:
            if self._flat is not None:
                self._contents, self._flat_interfaces = self._flat.contents()
            else:
                self._contents = self._of_groups()
        return self._contents

    def _of_groups(self) -> Contents:
        groups = list(self._groups.values())
        counts = [g.episodes for g in groups]
        c = self._columns.read(counts)
        part = c.pop("environment").astype(np.int64)
        order = np.argsort(part, kind="stable")  # environment by environment
        place, stop, length = (np.empty(len(part), np.int64) for _ in range(3))
        if groups:
            ends = [g.ends() for g in groups]
            place[order] = np.concatenate([np.arange(n) for n in counts])
            stop[order] = np.concatenate(ends)
            length[order] = np.concatenate([np.diff(e, prepend=0) for e in ends])
        for name, names, codes in (
            ("environment", list(self._groups), part),
            ("source", self._columns.sources, c["source"]),
        ):
            c[name] = np.array(names, dtype=str)[codes] if names else np.array([], dtype=str)
        return Contents(self.path, [g.part for g in groups], part, place, stop - length, length, c)

    def read_array(self, name: str, environment: str | None = None) -> np.ndarray:
        """A whole array such as "data/state": of an environment, or of a foreign store."""
        if self._flat is not None:
            known = [f"data/{k}" for k in self._flat.names]
            if name in known:
                return self._flat.array(name, self.n_steps).read(0, self.n_steps)
        else:
            group = self._groups.get(environment or "", Group("", self.path))
            arrays = {f"meta/{k}": a for k, a in self._columns.arrays.items()}
            arrays |= group.arrays
            known = sorted(arrays)
            if name in known:
                return arrays[name].read(0, arrays[name].rows)
        of = "" if environment is None else f" of '{environment}'"
        raise UserError(f"{self.path}: no array '{name}'{of}; it has {', '.join(known) or 'none'}")

    def columns(self) -> dict[str, np.ndarray]:
        """Per-episode columns (E,) in the order of appending; environment and source as strings.
        Foreign stores get defaults, and their folder's name as the environment.
        """
        return dict(self._read().columns)

    def outcomes(self, name: str) -> Rows:
        """The rows of "reward", "success" or "intervention" of all episodes, in order; nothing is
        read.
        """
        return self._read().number(name, np.arange(len(self)))

    def steps(self, environments: Sequence[str] | None = None) -> Steps:
        """All steps, or those of some environments."""
        contents = self._read()
        names = contents.columns["environment"]
        keep = np.ones(len(names), bool) if environments is None else np.isin(names, environments)
        return contents.steps(np.flatnonzero(keep))

    def episodes(self, environment: str | None = None) -> Iterator[Episode]:
        """Episodes in order, one in memory at a time."""
        for i, name in enumerate(self._read().columns["environment"]):
            if environment is None or name == environment:
                yield self.episode(i)

    def episode(self, i: int) -> Episode:
        """Episode number i."""
        return self._read().episode(range(len(self))[i])

    def timed(self, episodes: np.ndarray) -> np.ndarray:
        """(n,) bool: which of some episodes (n,) have time stamps."""
        return self._read().timed(episodes)

    def times(self, episodes: np.ndarray) -> Rows:
        """Time stamps of some episodes (n,), one after another: seconds from each one's start, NaN
        in those without. Nothing is read.
        """
        return self._read().number("timestamp", episodes)

    def digest(self, first: int | None = None) -> str:
        """Hash of the content, or of the first episodes: equal for equal episodes, however they
        were appended, and in format 1 and 2. O(episodes); O(bytes) in other formats than 2.
        """
        if self.foreign and self._flat is not None:
            h = hashlib.sha256(self._flat.ends[:first].tobytes())
            steps = int(self._flat.ends[:first][-1]) if len(self._flat.ends[:first]) else 0
            for name in self._flat.names:
                array = self._flat.array(f"data/{name}", steps)
                h.update(f"{name}{array.dtype}{array.row_shape}".encode())
                h.update(array.read(0, steps).tobytes())
            return h.hexdigest()[:16]
        return self._read().digest(len(self) if first is None else min(first, len(self)))

    def describe(self) -> list[str]:
        """Lines for `alltrades data info`."""
        contents, ids = self._read(), self._read().columns["environment"]
        version = self._commit and self._commit["format_version"]
        kind = f"format {version}" if version else "foreign store, read as it is"
        lines = [f"{self.path}: {len(self)} episodes, {self.n_steps} steps ({kind})"]
        if self._flat is not None:
            for name in self._flat.names:
                array = self._flat.array(f"data/{name}", self.n_steps)
                lines.append(f"  data/{name}: {array.shape} {array.dtype}")
            for name in np.unique(ids):
                mine = np.flatnonzero(ids == name)
                lines += [f"  {name} {line}" for line in of_sources(contents, mine)]
        else:
            for name, interface in sorted(self.interfaces().items()):
                mine = np.flatnonzero(ids == name)
                lines += [f"  {line}" for line in of_environment(interface, contents, mine)]
        return lines + [f"  {line}" for line in of_origin(self.provenance)]


def _begun(file: Path) -> bool:
    """Whether a file is one that `create` writes before its commit."""
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
