"""What a store holds, whatever its format: arrays of steps, and where every episode stands in
them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

import google_crc32c
import numpy as np

from alltrades.data.chunks import ChunkedArray, chunk_rows
from alltrades.data.columns import INTERVENTIONS, UNMARKED
from alltrades.data.episode import UNKNOWN, Episode
from alltrades.data.rows import Rows
from alltrades.data.runs import Runs
from alltrades.data.sources import Absent, Source
from alltrades.data.steps import Steps
from alltrades.data.texts import Texts
from alltrades.errors import UserError

NUMBERS = {
    "action": "float32",
    "reward": "float32",
    "success": "bool",
    "timestamp": "float64",
    "intervention": "bool",
}


@dataclass(frozen=True)
class Part:
    """Arrays in which episodes of one environment stand.

    Attributes:
        fields: rows of its states (S, D) and images (S, H, W, C). texts: of its episodes.
        action: (S, A). reward, success: (S,). None where there are none: zeros.
        timestamp: (S,) float64, NaN in episodes without; None where there are none.
        intervention: (S,) bool; None where there are none.
    """

    fields: Mapping[str, Source]
    texts: Mapping[str, Texts]
    action: Source | None
    reward: Source | None
    success: Source | None
    timestamp: Source | None = None
    intervention: Source | None = None


@dataclass(frozen=True)
class Contents:
    """E episodes in the order of appending.

    Attributes:
        path: of the store, for messages.
        parts: one per environment.
        part, place, start, length: (E,) int64; the episode's part, its number among the part's
            episodes, its first row there, its steps.
        columns: (E,) each: environment, source (str), seed, success, first_success (UNKNOWN where
            nothing says success), return, has_actions; interventions (UNMARKED where an episode
            says nothing) in stores where one does.
    """

    path: Path
    parts: list[Part]
    part: np.ndarray
    place: np.ndarray
    start: np.ndarray
    length: np.ndarray
    columns: dict[str, np.ndarray]

    @cached_property
    def ends(self) -> np.ndarray:
        """(E,) one past each episode's last step, episodes standing one after another."""
        return np.cumsum(self.length)

    @cached_property
    def part_steps(self) -> np.ndarray:
        """(parts,) one past the last row of each that an episode has."""
        out = np.zeros(len(self.parts), np.int64)
        np.maximum.at(out, self.part, self.start + self.length)
        return out

    @cached_property
    def of_part(self) -> list[np.ndarray]:
        """The numbers of each part's episodes, in order."""
        counts = np.bincount(self.part, minlength=len(self.parts))
        return np.split(np.argsort(self.part, kind="stable"), np.cumsum(counts)[:-1])

    def episode(self, i: int) -> Episode:
        """Episode number i. Reads the chunks that hold it."""
        c = {k: v[i] for k, v in self.columns.items()}
        part, start = self.parts[self.part[i]], int(self.start[i])
        stop = start + int(self.length[i])

        def read(source: Source | None, kind: str) -> np.ndarray:
            if source is None:
                return np.zeros(stop - start, kind)
            return source.read(start, stop).astype(kind, copy=False)

        if not part.fields and not part.texts:
            raise UserError(
                f"{self.path}: no data/state; expected one; an environment's own reader may know "
                "the arrays it has"
            )
        observations: dict[str, Any] = {k: v.read(start, stop) for k, v in part.fields.items()}
        place = self.place[i : i + 1]
        times = None if part.timestamp is None else part.timestamp.read(start, stop)
        observations |= {k: v.read(place)[0] for k, v in part.texts.items()}
        try:
            return Episode(
                observations,
                read(part.action, "float32") if c["has_actions"] else None,
                read(part.reward, "float32"),
                read(part.success, "bool"),
                str(c["environment"]),
                str(c["source"]),
                int(c["seed"]),
                None if c["first_success"] == UNKNOWN else bool(c["success"]),
                None if c["first_success"] == UNKNOWN else int(c["first_success"]),
                float(c["return"]),
                timestamps=None if times is None or np.isnan(times).all() else times,
                interventions=None
                if c.get(INTERVENTIONS, UNMARKED) == UNMARKED
                else read(part.intervention, "bool"),
            )
        except ValueError as error:
            raise UserError(
                f"{self.path}: {error}; restore the store from a copy, or leave that episode out"
            ) from error

    def actions(self, i: int) -> np.ndarray | None:
        """(T, A) f32 of episode number i, None where it has none. Reads nothing else of it."""
        source, start = self.parts[self.part[i]].action, int(self.start[i])
        if source is None or not self.columns["has_actions"][i]:
            return None
        return source.read(start, start + int(self.length[i])).astype("float32", copy=False)

    def timed(self, episodes: np.ndarray) -> np.ndarray:
        """(n,) bool: which of some episodes have time stamps. Reads those of their environments."""
        out = np.zeros(len(episodes), bool)
        for k in np.unique(self.part[episodes]):
            part = self.parts[k]
            here = np.flatnonzero(self.part[episodes] == k)
            if part.timestamp is not None:
                out[here] = ~np.isnan(part.timestamp.take(self.start[episodes[here]]))
        return out

    # ---- many episodes ---------------------------------------------------------------------------
    def field(self, name: str, episodes: np.ndarray) -> Rows:
        """Rows of a state or an image of some episodes, in order; nothing is read."""
        return self._rows(lambda p: p.fields.get(name), episodes, self._kinds[name])

    def number(self, name: str, episodes: np.ndarray) -> Rows:
        """Rows of "action" (., A), "reward", "success", "timestamp" or "intervention" of some
        episodes, in order; zero where an environment has none. Nothing is read.
        """
        return self._rows(attrgetter(name), episodes, NUMBERS[name])

    def text(self, name: str, episodes: np.ndarray) -> np.ndarray:
        """(n,) object array of the texts of some episodes; "" where an environment has none."""
        out = np.full(len(episodes), "", object)
        for k in np.unique(self.part[episodes]):
            part = self.parts[k]
            here = np.flatnonzero(self.part[episodes] == k)
            if name in part.texts:
                out[here] = part.texts[name].read(self.place[episodes[here]])
        return out

    @cached_property
    def _kinds(self) -> dict[str, np.dtype]:
        """Dtype of each field's rows, of whatever environments."""
        kinds: dict[str, set[np.dtype]] = {}
        for part in self.parts:
            for name, source in part.fields.items():
                kinds.setdefault(name, set()).add(source.dtype)
        return {name: np.result_type(*own) for name, own in kinds.items()}

    def _rows(
        self, source: Callable[[Part], Source | None], episodes: np.ndarray, dtype: Any
    ) -> Rows:
        parts, which = np.unique(self.part[episodes], return_inverse=True)
        found = [source(self.parts[k]) or Absent(int(self.part_steps[k])) for k in parts]
        start = self.start[episodes]
        return Rows(Runs(found, which, start, start + self.length[episodes]), dtype=dtype)

    def _names(self, kind: Literal["fields", "texts"], episodes: np.ndarray) -> list[str]:
        """Fields of some episodes' environments, in the order in which parts first have them."""
        parts = [self.parts[k] for k in np.unique(self.part[episodes])]
        return list(dict.fromkeys(name for part in parts for name in getattr(part, kind)))

    def steps(self, episodes: np.ndarray) -> Steps:
        """Some episodes; observations and actions are read when they are used."""
        c = {k: v[episodes] for k, v in self.columns.items()}
        return Steps(
            {name: self.field(name, episodes) for name in self._names("fields", episodes)},
            self.number("action", episodes),
            self.number("success", episodes).load(()),
            np.cumsum(self.length[episodes]),
            c["environment"],
            c["source"],
            c["seed"],
            c["success"],
            c["first_success"],
            c["has_actions"],
            c["return"],
            {name: self.text(name, episodes) for name in self._names("texts", episodes)},
            self._interventions(episodes),
        )

    def _interventions(self, episodes: np.ndarray) -> np.ndarray | None:
        """(S,) int8 of the steps of some episodes, as `Steps` has them."""
        counts = self.columns.get(INTERVENTIONS)
        if counts is None or (counts[episodes] == UNMARKED).all():
            return None
        found = self.number("intervention", episodes).load(()).astype(np.int8)
        found[np.repeat(counts[episodes] == UNMARKED, self.length[episodes])] = UNMARKED
        return found

    def digest(self, first: int) -> str:
        """Hash of the first episodes: the same for the same episodes in the same order, however
        they were appended and in whatever format they are kept. Rows count by the checksums of the
        chunks of about 1 MB in which a store of format 2 keeps them: of those nothing is read.
        """
        h = hashlib.sha256()

        def add(name: str, rows: Rows, shape: tuple[int, ...]) -> None:
            h.update(f"{name}{shape}{rows.dtype}\0".encode())
            h.update(np.array(_checks(rows, shape), np.uint32).tobytes())

        names, which = np.unique(self.columns["environment"][:first], return_inverse=True)
        edges = np.cumsum(np.bincount(which, minlength=len(names)))[:-1]
        of_name = np.split(np.argsort(which, kind="stable"), edges)
        for environment, mine in zip(map(str, names), of_name):
            h.update(f"{environment}\0".encode() + self.length[mine].astype("<i8").tobytes())
            for name in sorted(self._names("fields", mine)):
                rows = self.field(name, mine)
                add(f"field {name}", rows, rows.row_shape)
            for name in sorted(self._names("texts", mine)):
                h.update(f"text {name}\0".encode())
                for text in self.text(name, mine):
                    data = text.encode("utf-8", "surrogatepass")
                    h.update(len(data).to_bytes(8, "little") + data)
            if self.columns["has_actions"][mine].any():
                actions = self.number("action", mine)
                add("action", actions, actions.row_shape)
            for name in ("reward", "success"):
                add(name, self.number(name, mine), ())
            if self.timed(mine).any():
                add("timestamp", self.number("timestamp", mine), ())
            marked = self.columns.get(INTERVENTIONS, np.full(first, UNMARKED))[mine]
            if (marked != UNMARKED).any():
                add("intervention", self.number("intervention", mine), ())
                h.update(marked.tobytes())
        for name in ("environment", "source", "seed", "success", "first_success", "return"):
            values = self.columns[name][:first]
            h.update(name.encode())
            h.update("\0".join(values).encode() if values.dtype.kind == "U" else values.tobytes())
        h.update(self.columns["has_actions"][:first].tobytes())
        return h.hexdigest()[:16]


def _checks(rows: Rows, shape: tuple[int, ...]) -> list[int]:
    """CRC-32C of rows (N, *shape) in pieces of a chunk."""
    chunk, out = chunk_rows(shape, rows.dtype), []
    if len(rows.runs) == 1:
        ((source, start, stop),) = rows.runs
        if isinstance(source, ChunkedArray) and (start, source.chunk) == (0, chunk):
            known = source.chunks if stop == source.rows else stop // chunk
            out = list(source.checks[:known])
    for low in range(len(out) * chunk, len(rows), chunk):
        piece = rows.take(np.arange(low, min(low + chunk, len(rows))), shape)
        out.append(google_crc32c.value(np.ascontiguousarray(piece)))
    return out
