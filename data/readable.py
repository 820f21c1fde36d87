"""Episode stores as they are read; `alltrades.data.store` says what they are, and writes them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alltrades.data.chunks import ChunkCache
from alltrades.data.columns import Columns
from alltrades.data.commit import FORMAT_VERSION
from alltrades.data.contents import Contents
from alltrades.data.description import of_environment, of_origin, of_sources
from alltrades.data.episode import Episode
from alltrades.data.flat import FlatStore
from alltrades.data.groups import Group, Ranges
from alltrades.data.interface import Interface
from alltrades.data.rows import Rows
from alltrades.data.steps import Steps
from alltrades.errors import UserError
from alltrades.system.remote.lease import Lease
from alltrades.system.remote.place import RemotePath


class ReadableStore:
    """The episodes of one commit. Every method raises UserError, in one line that names the file,
    for what is missing or is not what was written.

    Attributes:
        path: of the store.
        foreign: whether it is none that alltrades wrote.
    """

    def __init__(
        self, path: Path, commit: dict[str, Any] | None, lease: Lease | None = None
    ) -> None:
        self.path, self._commit = path, commit
        self.foreign = commit is None
        self._cache = ChunkCache(lease=lease)
        self._groups: dict[str, Group] = {}
        self._columns = Columns(path)
        self._flat: FlatStore | None = None
        self._flat_interfaces: dict[str, Interface] = {}
        if commit is None or commit["format_version"] < FORMAT_VERSION:
            if isinstance(path, RemotePath):
                raise UserError(
                    f"{path}: store format 1, which is read on a disk alone; expected format "
                    f"{FORMAT_VERSION}; download it, and copy it with EpisodeStore.write"
                )
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
        self._steps: tuple[tuple[str, ...] | None, Steps] | None = None
        self._digest: str | None = None

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

    @property
    def recorded(self) -> set[str]:
        """The environments of which it has episodes."""
        if self._flat is not None:
            return set(map(str, np.unique(self._read().columns["environment"])))
        return {g.environment for g in self._groups.values() if g.episodes}

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

    def numbers(self, environment: str) -> np.ndarray:
        """(n,) which episodes are of an environment, in order."""
        contents = self._read()
        if self._flat is not None:
            return np.flatnonzero(contents.columns["environment"] == environment)
        known = list(self._groups)
        if environment not in known:
            return np.array([], dtype=np.int64)
        return contents.of_part[known.index(environment)]

    def ranges(self, environment: str) -> Ranges | None:
        """Least and largest value (D,) of each number of an environment's states, by "data/FIELD",
        and of its "data/action", from the commit: nothing is read. None where it does not say.
        """
        group = self._groups.get(environment)
        return None if group is None else group.ranges

    def outcomes(self, name: str) -> Rows:
        """The rows of "reward", "success" or "intervention" of all episodes, in order; nothing is
        read.
        """
        return self._read().number(name, np.arange(len(self)))

    def steps(self, environments: Sequence[str] | None = None) -> Steps:
        """All steps, or those of some environments; the same object where the same are asked for
        again.
        """
        wanted = None if environments is None else tuple(dict.fromkeys(environments))
        known = self._steps
        if known is None or known[0] != wanted:
            known = self._steps = wanted, self._read().steps(self._numbers(wanted))
        return known[1]

    def _numbers(self, environments: Sequence[str] | None) -> np.ndarray:
        """(n,) which episodes are of some environments, in order; all with None."""
        if environments is None:
            return np.arange(len(self))
        contents = self._read()
        if self._flat is not None:
            return np.flatnonzero(np.isin(contents.columns["environment"], environments))
        wanted = set(environments)
        parts = [k for k, name in enumerate(self._groups) if name in wanted]
        return np.flatnonzero(np.isin(contents.part, parts))

    def episodes(self, environment: str | None = None) -> Iterator[Episode]:
        """Episodes in order, one in memory at a time."""
        for i, name in enumerate(self._read().columns["environment"]):
            if environment is None or name == environment:
                yield self.episode(i)

    def episode(self, i: int) -> Episode:
        """Episode number i."""
        return self._read().episode(range(len(self))[i])

    def actions(self, i: int) -> np.ndarray | None:
        """(T, A) f32 of episode number i, of which nothing else is read; None where it has none."""
        return self._read().actions(range(len(self))[i])

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
        if first is None or first >= len(self):
            if self._digest is None:
                self._digest = self._read().digest(len(self))
            return self._digest
        return self._read().digest(first)

    def describe(self) -> list[str]:
        """Lines for `alltrades data info`."""
        contents = self._read()
        version = self._commit and self._commit["format_version"]
        kind = f"format {version}" if version else "foreign store, read as it is"
        lines = [f"{self.path}: {len(self)} episodes, {self.n_steps} steps ({kind})"]
        if self._flat is not None:
            for name in self._flat.names:
                array = self._flat.array(f"data/{name}", self.n_steps)
                lines.append(f"  data/{name}: {array.shape} {array.dtype}")
            for name in np.unique(contents.columns["environment"]):
                lines += [f"  {name} {s}" for s in of_sources(contents, self.numbers(name))]
        else:
            for name, interface in sorted(self.interfaces().items()):
                mine = self.numbers(name)
                lines += [f"  {line}" for line in of_environment(interface, contents, mine)]
        return lines + [f"  {line}" for line in of_origin(self.provenance)]
