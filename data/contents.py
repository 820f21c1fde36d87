"""What a store holds, whatever its format: arrays of steps, and where every episode stands in
them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from alltrades.data.episode import Episode
from alltrades.data.rows import Block, Memory, Rows, Source
from alltrades.data.steps import Steps
from alltrades.errors import UserError

Fields = Mapping[str, Source]  # "state" (S, D), "action" (S, A), "reward" (S,), "success" (S,)


@dataclass(frozen=True)
class Contents:
    """E episodes in the order of appending.

    Attributes:
        path: of the store, for messages.
        parts: arrays of steps. A field that a part lacks is zero; an action has then no numbers.
        part, start, length: (E,) int64; the episode's part, its first row there, its steps.
        columns: (E,) each: environment, source (str), seed, success, first_success, return,
            observation_dim, action_dim, has_actions.
    """

    path: Path
    parts: list[Fields]
    part: np.ndarray
    start: np.ndarray
    length: np.ndarray
    columns: dict[str, np.ndarray]

    @cached_property
    def ends(self) -> np.ndarray:
        """(E,) one past each episode's last step, episodes standing one after another."""
        return np.cumsum(self.length)

    def episode(self, i: int) -> Episode:
        """Episode number i. Reads the chunks that hold it."""
        c = {k: v[i] for k, v in self.columns.items()}
        fields, start = self.parts[self.part[i]], int(self.start[i])
        stop = start + int(self.length[i])

        def read(name: str, kind: type) -> np.ndarray:
            if name not in fields:
                return np.zeros(stop - start, kind)
            return fields[name].read(start, stop).astype(kind, copy=False)

        if "state" not in fields:
            raise UserError(
                f"{self.path}: no data/state; expected one; an environment's own reader may know "
                "the arrays it has"
            )
        try:
            return Episode(
                {"state": read("state", np.float32)[:, : c["observation_dim"]]},
                read("action", np.float32)[:, : c["action_dim"]] if c["has_actions"] else None,
                read("reward", np.float32),
                read("success", np.bool_),
                str(c["environment"]),
                str(c["source"]),
                int(c["seed"]),
                bool(c["success"]),
                int(c["first_success"]),
                float(c["return"]),
            )
        except ValueError as error:
            raise UserError(
                f"{self.path}: {error}; restore the store from a copy, or leave that episode out"
            ) from error

    def rows(self, name: str, episodes: np.ndarray) -> Rows:
        """Rows of a field of two dimensions of some episodes, in order; nothing is read."""
        sources = [
            f[name] if name in f else Memory(np.zeros((int(self.length[self.part == k].sum()), 0)))
            for k, f in enumerate(self.parts)
        ]
        return Rows(
            [
                Block(
                    sources[self.part[i]], int(self.start[i]), int(self.start[i] + self.length[i])
                )
                for i in episodes
            ]
        )

    def flat(self, name: str, episodes: np.ndarray, kind: str) -> np.ndarray:
        """Values of a field of one number per step of some episodes, in order."""
        out = np.zeros(int(self.length[episodes].sum()), kind)
        at = 0
        for source, start, stop in self._blocks(name, episodes):
            if source is not None:
                out[at : at + stop - start] = source.read(start, stop)
            at += stop - start
        return out

    def _blocks(self, name: str, episodes: np.ndarray) -> Iterator[tuple[Source | None, int, int]]:
        """(source, start, stop) of runs of episodes that stand one after another in one part."""
        i = 0
        while i < len(episodes):
            j, k = i + 1, self.part[episodes[i]]
            start = int(self.start[episodes[i]])
            stop = start + int(self.length[episodes[i]])
            while j < len(episodes) and (self.part[episodes[j]], self.start[episodes[j]]) == (
                k,
                stop,
            ):
                stop += int(self.length[episodes[j]])
                j += 1
            yield self.parts[k].get(name), start, stop
            i = j

    def steps(self, episodes: np.ndarray) -> Steps:
        """Some episodes; observations and actions are read when they are used."""
        c = {k: v[episodes] for k, v in self.columns.items()}
        return Steps(
            self.rows("state", episodes),
            self.rows("action", episodes),
            self.flat("success", episodes, "bool"),
            np.cumsum(self.length[episodes]),
            c["environment"],
            c["source"],
            c["seed"],
            c["success"],
            c["first_success"],
            c["has_actions"],
        )

    def digest(self, first: int) -> str:
        """Hash of the first episodes: the same for the same episodes in the same order, however
        they were appended and in whatever format they are kept. O(bytes).
        """
        h = hashlib.sha256()
        for environment in sorted(set(self.columns["environment"][:first])):
            mine = np.flatnonzero(self.columns["environment"][:first] == environment)
            acted = mine[self.columns["has_actions"][mine]]
            h.update(f"{environment}\0".encode())
            for i in mine:
                h.update(int(self.length[i]).to_bytes(8, "little"))
            for name, column, some in (
                ("state", "observation_dim", mine),
                ("action", "action_dim", acted),
            ):
                h.update(f"{name}\0".encode())
                for d in np.unique(self.columns[column][some]):
                    of_size = some[self.columns[column][some] == d]
                    h.update(int(d).to_bytes(8, "little"))
                    for piece in self.rows(name, of_size).pieces():
                        h.update(np.ascontiguousarray(piece[:, :d]).tobytes())
            for name, kind in (("reward", "float32"), ("success", "bool")):
                h.update(self.flat(name, mine, kind).tobytes())
        for name in ("environment", "source", "seed", "success", "first_success", "return"):
            values = self.columns[name][:first]
            h.update(name.encode())
            h.update("\0".join(values).encode() if values.dtype.kind == "U" else values.tobytes())
        h.update(self.columns["has_actions"][:first].tobytes())
        return h.hexdigest()[:16]

    def describe(self, mine: np.ndarray) -> list[str]:
        """Lines about some episodes, one per source."""
        lines, c = [], self.columns
        for source in np.unique(c["source"][mine]):
            these = mine[c["source"][mine] == source]
            without = int((~c["has_actions"][these]).sum())
            lines.append(
                f"from {source}: {len(these)} episodes, "
                f"{self.length[these].min()}-{self.length[these].max()} steps, "
                f"{c['success'][these].sum()} marked successful"
                + (f", {without} without actions" if without else "")
            )
        return lines
