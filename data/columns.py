"""Per-episode columns of a store of format 2, over all its environments in the order of
appending.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from alltrades.data.chunks import COLUMN_BYTES, ChunkCache, ChunkedArray, write_group
from alltrades.data.episode import UNKNOWN, Episode
from alltrades.errors import UserError

FOLDER = "meta"
KINDS = {
    "environment": "int32",
    "source": "int32",
    "seed": "uint64",
    "success": "bool",
    "first_success": "int64",
    "return": "float64",
    "has_actions": "bool",
}
INTERVENTIONS = "interventions"  # int64, how many steps a person took; there once an episode says
UNMARKED = -1  # of an episode that does not


@dataclass(frozen=True)
class Columns:
    """What is known of each of E episodes as a whole.

    Attributes:
        path: the store's folder.
        sources: names behind the codes of the column source.
        arrays: (E,) by column; none before the first episode.
    """

    path: Path
    sources: tuple[str, ...] = ()
    arrays: Mapping[str, ChunkedArray] = field(default_factory=dict)

    @classmethod
    def from_json(cls, path: Path, facts: Mapping[str, Any], cache: ChunkCache) -> Columns:
        """Those that `to_json` described."""
        arrays = {
            name: ChunkedArray.from_json(path / FOLDER / name, a, cache)
            for name, a in facts["arrays"].items()
        }
        return cls(path, tuple(facts["sources"]), arrays)

    def to_json(self) -> dict[str, Any]:
        """How the commit describes them."""
        arrays = {name: a.to_json() for name, a in self.arrays.items()}
        return {"sources": list(self.sources), "arrays": arrays}

    def extended(
        self, episodes: Sequence[Episode], environments: Sequence[str], cache: ChunkCache
    ) -> Columns:
        """The columns with more episodes, which are on disk when this returns and count when the
        store commits; `environments` are all names, in the order of their codes.
        """
        if not self.arrays:
            write_group(self.path / FOLDER, cache)
        sources = tuple(dict.fromkeys([*self.sources, *(e.source for e in episodes)]))
        codes, origins = ({n: i for i, n in enumerate(names)} for names in (environments, sources))
        added: dict[str, list[Any]] = {
            "environment": [codes[e.environment] for e in episodes],
            "source": [origins[e.source] for e in episodes],
            "seed": [e.seed for e in episodes],
            "success": [bool(e.success) for e in episodes],
            "first_success": [
                UNKNOWN if e.first_success is None else e.first_success for e in episodes
            ],
            "return": [e.return_ for e in episodes],
            "has_actions": [e.actions is not None for e in episodes],
        }
        kinds = dict(KINDS)
        if INTERVENTIONS in self.arrays or any(e.interventions is not None for e in episodes):
            kinds[INTERVENTIONS] = "int64"
            added[INTERVENTIONS] = [
                UNMARKED if e.interventions is None else int(e.interventions.sum())
                for e in episodes
            ]
        earlier = self.arrays["seed"].rows if self.arrays else 0
        arrays = {}
        for name, values in added.items():
            there = self.arrays.get(name) or ChunkedArray.empty(
                self.path / FOLDER / name, (), kinds[name], cache, COLUMN_BYTES
            )
            if there.rows < earlier:
                there = there.extended(np.full(earlier, UNMARKED))
            arrays[name] = there.extended(np.array(values, dtype=kinds[name]))
        return Columns(self.path, sources, arrays)

    def read(self, counts: Sequence[int]) -> dict[str, np.ndarray]:
        """(E,) by column, environment and source as codes; `counts` are the episodes that the
        commit knows of each environment.

        Raises UserError where they disagree with it.
        """
        out = {name: a.read(0, a.rows) for name, a in self.arrays.items()}
        if not out:
            out = {name: np.array([], dtype=kind) for name, kind in KINDS.items()}
        for name, limit in (("environment", len(counts)), ("source", len(self.sources))):
            if not ((out[name] >= 0) & (out[name] < limit)).all():
                raise UserError(
                    f"{self.path / FOLDER / name}: codes without a name; expected those in the "
                    "commit; restore the store from a copy"
                )
        if np.bincount(out["environment"], minlength=len(counts)).tolist() != list(counts):
            raise UserError(
                f"{self.path / FOLDER}/environment: other numbers of episodes than the commit has; "
                "restore the store from a copy"
            )
        return out
