"""Episode stores in Zarr: the only module that touches Zarr.

Layout (Zarr 3, the flat form that Diffusion Policy made common):

    data/observation (S, D)  data/action (S, A)  data/reward (S,)  data/success (S,)
    meta/episode_ends (E,)   meta/<column> (E,)  commit.json

`commit.json` is the one commit point, written last and by rename: how many episodes and steps
count, the names behind the integer codes of the columns environment and source, provenance. Readers
ignore rows beyond it, a writer truncates to it when it opens the store: an append that is cut short
never happened.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alltrades.data.episode import Episode
from alltrades.data.steps import Steps
from alltrades.errors import UserError

FORMAT_VERSION = 1
CHUNK = 4096  # rows
COMMIT = "commit.json"
COLUMNS: dict[str, str] = {
    "environment": "int32",
    "source": "int32",
    "seed": "uint64",
    "success": "bool",
    "first_success": "int64",
    "return": "float64",
    "observation_dim": "int32",
    "action_dim": "int32",
    "has_actions": "bool",
}


class EpisodeStore:
    """Episodes on disk. Open with `create` or `open`; memory stays bounded by one append."""

    def __init__(self, path: Path, group: Any, commit: dict[str, Any] | None, mode: str) -> None:
        self.path, self.mode = path, mode
        self._group = group
        self._commit = commit
        self.foreign = commit is None

    # ---- opening ---------------------------------------------------------------------------------
    @classmethod
    def create(
        cls,
        path: Path | str,
        observation_dim: int,
        action_dim: int,
        provenance: dict[str, Any] | None = None,
    ) -> EpisodeStore:
        """A new, empty store, in a new or an empty folder.

        Raises UserError when anything else is there: making it begins by removing what is there, so
        that only what an interrupted `create` left, which holds no rows, may be.
        """
        import zarr

        path = Path(path)
        if (path / COMMIT).exists():
            raise UserError(
                f"{path}: a store is there already; expected a new path; open it with mode 'a', "
                "or delete it"
            )
        if path.exists() and not _begun(path):
            raise UserError(
                f"{path}: something is there already that is no store of ours; expected a new or "
                "an empty folder; "
                "choose another path"
            )
        path.mkdir(parents=True, exist_ok=True)
        group = zarr.open_group(str(path), mode="w", zarr_format=3)
        data, meta = group.create_group("data"), group.create_group("meta")
        for name, width, kind in (
            ("observation", observation_dim, "float32"),
            ("action", action_dim, "float32"),
            ("reward", None, "float32"),
            ("success", None, "bool"),
        ):
            tail = () if width is None else (width,)
            data.create_array(name, shape=(0, *tail), chunks=(CHUNK, *tail), dtype=kind)
        meta.create_array("episode_ends", shape=(0,), chunks=(CHUNK,), dtype="int64")
        for name, kind in COLUMNS.items():
            meta.create_array(name, shape=(0,), chunks=(CHUNK,), dtype=kind)
        store = cls(
            path,
            group,
            {
                "format_version": FORMAT_VERSION,
                "episodes": 0,
                "steps": 0,
                "environments": [],
                "sources": [],
                "provenance": provenance or {},
            },
            "a",
        )
        store._write_commit()
        return store

    @classmethod
    def open(cls, path: Path | str, mode: str = "r") -> EpisodeStore:
        """An existing store, ours or a foreign one of the same layout (Zarr 2 or 3; read only).

        Raises UserError when there is none, or it cannot be read.
        """
        import zarr

        path = Path(path)
        if not path.is_dir():
            raise UserError(
                f"{path}: no such store; expected a Zarr folder; check the path, or use "
                "`alltrades collect`"
            )
        commit = None
        try:
            if (path / COMMIT).exists():
                commit = json.loads((path / COMMIT).read_text())
            group = zarr.open_group(str(path), mode="r" if commit is None or mode == "r" else "r+")
            group["meta/episode_ends"]
        except (KeyError, ValueError, OSError, zarr.errors.GroupNotFoundError) as error:
            raise UserError(
                f"{path}: cannot be read as a store ({type(error).__name__}); expected Zarr with "
                "data/ arrays and "
                "meta/episode_ends"
            ) from error
        if commit is not None and commit["format_version"] > FORMAT_VERSION:
            raise UserError(
                f"{path}: store format {commit['format_version']}; this version reads up to "
                f"{FORMAT_VERSION}; "
                "upgrade alltrades"
            )
        if mode == "a" and commit is None:
            raise UserError(
                f"{path}: a foreign store is read as it is and never written; copy it with "
                "`alltrades run --data`"
            )
        store = cls(path, group, commit, mode)
        if mode == "a":
            store._truncate()
        return store

    def _truncate(self) -> None:
        for array, rows in self._arrays():
            if array.shape[0] != rows:
                array.resize((rows, *array.shape[1:]))

    def _arrays(self) -> Iterator[tuple[Any, int]]:
        for name in ("observation", "action", "reward", "success"):
            yield self._group[f"data/{name}"], self.n_steps
        for name in ("episode_ends", *COLUMNS):
            yield self._group[f"meta/{name}"], len(self)

    # ---- writing ---------------------------------------------------------------------------------
    def append(self, episodes: Iterable[Episode]) -> None:
        """Add whole episodes: all of them or, when cut short, none. O(rows added), however long the
        store.
        """
        episodes = list(episodes)
        if self.mode != "a" or self._commit is None:
            raise UserError(f"{self.path}: opened for reading; open it with mode 'a' to append")
        if not episodes:
            return
        width, action_width = self.widths
        for e in episodes:
            a = 0 if e.actions is None else e.actions.shape[1]
            if e.observation.shape[1] > width or a > action_width:
                raise UserError(
                    f"{self.path}: an episode of '{e.environment}' has observation size "
                    f"{e.observation.shape[1]} and "
                    f"action size {a}; the store holds up to {width} and {action_width}; create a "
                    "wider store"
                )
        lengths = np.array([len(e) for e in episodes])
        start, first = self.n_steps, len(self)
        stop, last = start + int(lengths.sum()), first + len(episodes)
        observation = np.zeros((stop - start, width), np.float32)
        action = np.zeros((stop - start, action_width), np.float32)
        for e, end in zip(episodes, np.cumsum(lengths)):
            observation[end - len(e) : end, : e.observation.shape[1]] = e.observation
            if e.actions is not None:
                action[end - len(e) : end, : e.actions.shape[1]] = e.actions
        flat = {
            "observation": observation,
            "action": action,
            "reward": np.concatenate([e.rewards for e in episodes]).astype(np.float32),
            "success": np.concatenate([e.successes for e in episodes]).astype(bool),
        }
        for name, value in flat.items():
            _extend(self._group[f"data/{name}"], start, value)
        names = {
            "environments": list(self._commit["environments"]),
            "sources": list(self._commit["sources"]),
        }
        columns = {
            "environment": [_code(names["environments"], e.environment) for e in episodes],
            "source": [_code(names["sources"], e.source) for e in episodes],
            "seed": [e.seed for e in episodes],
            "success": [e.success for e in episodes],
            "first_success": [e.first_success for e in episodes],
            "return": [e.return_ for e in episodes],
            "observation_dim": [e.observation.shape[1] for e in episodes],
            "action_dim": [0 if e.actions is None else e.actions.shape[1] for e in episodes],
            "has_actions": [e.actions is not None for e in episodes],
        }
        for name, column in columns.items():
            _extend(self._group[f"meta/{name}"], first, np.array(column, dtype=COLUMNS[name]))
        _extend(self._group["meta/episode_ends"], first, start + np.cumsum(lengths))
        self._commit = self._commit | names | {"episodes": last, "steps": stop}
        self._write_commit()

    def set_provenance(self, **facts: Any) -> None:
        """Record where the episodes come from."""
        assert self._commit is not None and self.mode == "a"
        self._commit = self._commit | {"provenance": {**self.provenance, **facts}}
        self._write_commit()

    def _write_commit(self) -> None:
        partial = self.path / (COMMIT + ".partial")
        with open(partial, "w") as file:
            json.dump(self._commit, file, indent=1, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self.path / COMMIT)

    # ---- reading ---------------------------------------------------------------------------------
    def __len__(self) -> int:
        return (
            int(self._group["meta/episode_ends"].shape[0])
            if self._commit is None
            else int(self._commit["episodes"])
        )

    @property
    def n_steps(self) -> int:
        """Steps of all episodes."""
        if self._commit is not None:
            return int(self._commit["steps"])
        return int(self.episode_ends[-1]) if len(self) else 0

    @property
    def widths(self) -> tuple[int, int]:
        """Largest observation and action size that a store of ours holds."""
        return self._group["data/observation"].shape[1], self._group["data/action"].shape[1]

    @property
    def episode_ends(self) -> np.ndarray:
        """(E,) one past each episode's last step."""
        return np.asarray(self._group["meta/episode_ends"][: len(self)], dtype=np.int64)

    @property
    def provenance(self) -> dict[str, Any]:
        """What the writer recorded about the origin."""
        return {} if self._commit is None else dict(self._commit["provenance"])

    def read_array(self, name: str) -> np.ndarray:
        """A whole array such as "data/state"; rows beyond the committed ones are left out."""
        try:
            array = self._group[name]
        except KeyError as error:
            known = sorted(f"data/{k}" for k in self._group["data"].array_keys())
            raise UserError(f"{self.path}: no array '{name}'; it has {', '.join(known)}") from error
        return np.asarray(array[: len(self) if name.startswith("meta/") else self.n_steps])

    def columns(self) -> dict[str, np.ndarray]:
        """Per-episode columns (E,); environment and source as strings. Foreign stores get
        defaults.
        """
        count = len(self)
        if self._commit is None:
            fills: dict[str, Any] = {
                "environment": "",
                "source": "demo",
                "first_success": -1,
                "has_actions": True,
            }
            out = {
                k: np.full(
                    count, fills.get(k, 0), dtype=None if k in ("environment", "source") else d
                )
                for k, d in COLUMNS.items()
            }
            for k, field in (("observation_dim", "observation"), ("action_dim", "action")):
                if field in self._group["data"]:
                    out[k][:] = self._group[f"data/{field}"].shape[1]
            return out
        out = {k: np.asarray(self._group[f"meta/{k}"][:count]) for k in COLUMNS}
        for k, names in (("environment", "environments"), ("source", "sources")):
            out[k] = (
                np.array(self._commit[names], dtype=str)[out[k]]
                if count
                else np.array([], dtype=str)
            )
        return out

    def steps(self, environments: Sequence[str] | None = None) -> Steps:
        """All steps, or those of some environments, in memory."""
        c = self.columns()
        whole = Steps(
            self.read_array("data/observation").astype(np.float32),
            self.read_array("data/action").astype(np.float32),
            self.read_array("data/success")
            if self._commit is not None
            else np.zeros(self.n_steps, bool),
            self.episode_ends,
            c["environment"],
            c["source"],
            c["seed"],
            c["success"],
            c["first_success"],
            c["has_actions"],
        )
        return (
            whole
            if environments is None
            else whole.select(np.isin(whole.environment, list(environments)))
        )

    def episodes(self, environment: str | None = None) -> Iterator[Episode]:
        """Episodes in order, one in memory at a time."""
        for i, name in enumerate(self.columns()["environment"]):
            if environment is None or name == environment:
                yield self.episode(i)

    def episode(self, i: int) -> Episode:
        """Episode number i."""
        c = {k: v[i] for k, v in self.columns().items()}
        ends = self.episode_ends
        rows = slice(int(ends[i - 1]) if i else 0, int(ends[i]))
        length = rows.stop - rows.start
        ours = self._commit is not None
        return Episode(
            {
                "observation": np.asarray(self._group["data/observation"][rows])[
                    :, : c["observation_dim"]
                ]
            },
            np.asarray(self._group["data/action"][rows])[:, : c["action_dim"]]
            if c["has_actions"]
            else None,
            np.asarray(self._group["data/reward"][rows]) if ours else np.zeros(length, np.float32),
            np.asarray(self._group["data/success"][rows]) if ours else np.zeros(length, bool),
            str(c["environment"]),
            str(c["source"]),
            int(c["seed"]),
            bool(c["success"]),
            int(c["first_success"]),
            float(c["return"]),
        )

    def digest(self, first: int | None = None) -> str:
        """Hash of the content, or of the first episodes: equal for equal episodes, however they
        were chunked or appended.
        """
        h = hashlib.sha256()
        names = sorted(f"data/{k}" for k in self._group["data"].array_keys())
        steps = (
            self.n_steps
            if first is None or first >= len(self)
            else int(self.episode_ends[first - 1])
            if first
            else 0
        )
        for name, rows in (*((name, steps) for name in names), ("meta/episode_ends", first)):
            value = np.ascontiguousarray(self.read_array(name)[:rows])
            h.update(f"{name}{value.dtype}{value.shape}".encode())
            h.update(value.tobytes())
        for name, value in sorted(
            (name, values[:first]) for name, values in self.columns().items()
        ):
            h.update(name.encode())
            h.update("\0".join(value).encode() if value.dtype.kind == "U" else value.tobytes())
        return h.hexdigest()[:16]

    def describe(self) -> list[str]:
        """Lines for `alltrades data info`."""
        kind = (
            "foreign store, read as it is"
            if self._commit is None
            else f"format {self._commit['format_version']}"
        )
        lines = [f"{self.path}: {len(self)} episodes, {self.n_steps} steps ({kind})"]
        for name in sorted(self._group["data"].array_keys()):
            array = self._group[f"data/{name}"]
            lines.append(f"  data/{name}: {tuple(array.shape)} {array.dtype}")
        c, lengths = self.columns(), np.diff(self.episode_ends, prepend=0)
        for environment in np.unique(c["environment"]):
            for source in np.unique(c["source"][c["environment"] == environment]):
                mine = (c["environment"] == environment) & (c["source"] == source)
                lines.append(
                    f"  {environment or '(no environment)'} from {source}: {mine.sum()} episodes, "
                    f"{lengths[mine].min()}-{lengths[mine].max()} steps, "
                    f"{c['success'][mine].sum()} marked successful"
                    + (
                        ""
                        if c["has_actions"][mine].all()
                        else f", {(~c['has_actions'][mine]).sum()} without actions"
                    )
                )
        for key, value in self.provenance.items():
            lines.append(f"  {key}: {value}")
        return lines


def _begun(path: Path) -> bool:
    """Whether a folder holds nothing but what `create` writes before its commit: descriptions of
    our arrays without rows.
    """
    arrays = {
        "data": {"observation", "action", "reward", "success"},
        "meta": {"episode_ends", *COLUMNS},
    }

    def ours(file: Path) -> bool:
        *groups, name = file.relative_to(path).parts
        if name == COMMIT + ".partial":
            return not groups
        described = name == "zarr.json" or (name.startswith("zarr.") and name.endswith(".partial"))
        return described and (len(groups) < 2 or groups[1] in arrays[groups[0]]) and len(groups) < 3

    if not path.is_dir() or any(p.name not in arrays for p in path.iterdir() if p.is_dir()):
        return False
    return all(ours(file) for file in path.rglob("*") if not file.is_dir())


def _extend(array: Any, start: int, value: np.ndarray) -> None:
    array.resize((start + len(value), *array.shape[1:]))
    array[start:] = value


def _code(names: list[str], name: str) -> int:
    if name not in names:
        names.append(name)
    return names.index(name)
