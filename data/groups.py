"""The arrays of one environment in a store of format 2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from alltrades.data.chunks import COLUMN_BYTES, ChunkCache, ChunkedArray, write_group
from alltrades.data.episode import Episode
from alltrades.errors import UserError
from alltrades.system.files import slug

COLUMNS = {
    "episode_ends": "int64",
    "place": "int64",
    "source": "int32",
    "seed": "uint64",
    "success": "bool",
    "first_success": "int64",
    "return": "float64",
    "has_actions": "bool",
}


@dataclass(frozen=True)
class Group:
    """Episodes of one environment, as a store's commit describes them.

    Attributes:
        environment: its id; path: its folder.
        obs_dim, action_dim: sizes; None until they are known.
        arrays: "data/state", "data/action" (once its size is known), "data/reward", "data/success",
            "meta/<column>"; none before the first episode.
    """

    environment: str
    path: Path
    obs_dim: int | None = None
    action_dim: int | None = None
    episodes: int = 0
    steps: int = 0
    arrays: Mapping[str, ChunkedArray] = field(default_factory=dict)

    @classmethod
    def named(cls, store: Path, environment: str) -> Group:
        """One without episodes. Raises UserError for an id that can be no folder."""
        folder = slug(environment)
        if folder in ("", "commit.json", "zarr.json"):
            raise UserError(
                f"{store}: '{environment}' cannot name an environment; expected an id such as "
                "'suite/task'; rename it"
            )
        return cls(environment, store / folder)

    @classmethod
    def from_json(cls, store: Path, facts: dict[str, Any], cache: ChunkCache) -> Group:
        """The group that `to_json` described."""
        group = replace(
            cls.named(store, facts["id"]),
            obs_dim=facts["obs_dim"],
            action_dim=facts["action_dim"],
            episodes=facts["episodes"],
            steps=facts["steps"],
        )
        rows = {"data": group.steps, "meta": group.episodes}
        arrays = {
            name: ChunkedArray.from_json(group.path / name, a, rows[name.split("/")[0]], cache)
            for name, a in facts["arrays"].items()
        }
        return replace(group, arrays=arrays)

    def to_json(self) -> dict[str, Any]:
        """How the commit describes it."""
        return {
            "id": self.environment,
            "obs_dim": self.obs_dim,
            "action_dim": self.action_dim,
            "episodes": self.episodes,
            "steps": self.steps,
            "arrays": {name: a.to_json() for name, a in self.arrays.items()},
        }

    def sized(self, obs_dim: int, action_dim: int | None) -> Group:
        """The group with these sizes; an action size of None is not known yet. UserError where it
        has others.
        """
        for what, mine, given in (
            ("observations", self.obs_dim, obs_dim),
            ("actions", self.action_dim, action_dim),
        ):
            if mine is not None and given is not None and mine != given:
                raise UserError(
                    f"{self.path.parent}: {what} of '{self.environment}' have {given} numbers; the "
                    f"store holds {mine} of it; record into another store"
                )
        return replace(
            self,
            obs_dim=obs_dim,
            action_dim=self.action_dim if action_dim is None else action_dim,
        )

    def extended(
        self,
        episodes: Sequence[Episode],
        places: Sequence[int],
        sources: Sequence[int],
        cache: ChunkCache,
    ) -> Group:
        """The group with more episodes, which are on disk when this returns and count when the
        store commits.

        Args:
            episodes: of this environment. places, sources: number in the store, and code of the
                source, of each.

        Time: O(steps added), and O(steps) once where actions come after episodes without.
        """
        group: Group = self
        for e in episodes:
            group = group.sized(
                e.observation.shape[1], None if e.actions is None else e.actions.shape[1]
            )
        if not self.arrays:
            for path in (self.path, self.path / "data", self.path / "meta"):
                write_group(path)
        lengths = np.array([len(e) for e in episodes], dtype=np.int64)
        ends = self.steps + np.cumsum(lengths)
        width = group.action_dim
        added = {
            "data/state": np.concatenate([e.observation for e in episodes]).astype(np.float32),
            "data/reward": np.concatenate([e.rewards for e in episodes]).astype(np.float32),
            "data/success": np.concatenate([e.successes for e in episodes]).astype(bool),
        }
        if width is not None:
            added["data/action"] = np.concatenate(
                [np.zeros((len(e), width)) if e.actions is None else e.actions for e in episodes]
            ).astype(np.float32)
        columns: dict[str, Sequence[Any] | np.ndarray] = {
            "episode_ends": ends,
            "place": places,
            "source": sources,
            "seed": [e.seed for e in episodes],
            "success": [e.success for e in episodes],
            "first_success": [e.first_success for e in episodes],
            "return": [e.return_ for e in episodes],
            "has_actions": [e.actions is not None for e in episodes],
        }
        added |= {f"meta/{k}": np.array(v, dtype=COLUMNS[k]) for k, v in columns.items()}
        arrays = dict(self.arrays)
        for name, value in added.items():
            if name not in arrays:
                size = {"size": COLUMN_BYTES} if name.startswith("meta/") else {}
                arrays[name] = ChunkedArray.empty(
                    self.path / name, value.shape[1:], value.dtype.name, cache, **size
                )
                if name == "data/action" and self.steps:
                    assert width is not None
                    arrays[name] = arrays[name].extended(np.zeros((self.steps, width), np.float32))
            arrays[name] = arrays[name].extended(value)
        return replace(
            group, episodes=self.episodes + len(episodes), steps=int(ends[-1]), arrays=arrays
        )

    def columns(self, sources: Sequence[str]) -> dict[str, np.ndarray]:
        """Per-episode columns; UserError where they disagree with the commit."""
        if not self.episodes:
            return {k: np.array([], dtype=kind) for k, kind in COLUMNS.items()}
        out = {k: self.arrays[f"meta/{k}"].read(0, self.episodes) for k in COLUMNS}
        ends = out["episode_ends"]
        if (np.diff(ends, prepend=0) <= 0).any() or ends[-1] != self.steps:
            raise UserError(
                f"{self.path}/meta/episode_ends: does not increase up to {self.steps} steps; "
                "restore the store from a copy"
            )
        if not ((out["source"] >= 0) & (out["source"] < len(sources))).all():
            raise UserError(
                f"{self.path}/meta/source: codes without a name; expected those in the commit; "
                "restore the store from a copy"
            )
        return out
