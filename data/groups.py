"""The arrays of one environment in a store of format 2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from alltrades.data.actions import ActionSpec
from alltrades.data.agreement import other_fields, united
from alltrades.data.chunks import COLUMN_BYTES, ChunkCache, ChunkedArray, write_group
from alltrades.data.columns import FOLDER as COLUMNS
from alltrades.data.contents import Part
from alltrades.data.episode import Episode
from alltrades.data.extremes import extremes
from alltrades.data.interface import Interface
from alltrades.data.texts import BYTES, FOLDER, added_texts, text_arrays
from alltrades.data.texts import ENDS as TEXT_ENDS
from alltrades.errors import UserError
from alltrades.system.files import slug

ENDS = "meta/episode_ends"
TIMES = "meta/timestamp"  # beside the steps' arrays: a field of data/ may be called so
MARKS = "meta/intervention"
RANGED = 64  # numbers of a state or an action whose ranges the commit has, at most
Ranges = Mapping[str, tuple[np.ndarray, np.ndarray]]  # (D,) each: least and largest by array
OWN = ("action", "reward", "success", "zarr.json")  # what stands beside the fields in data/
PREFIX = "observation."


def array_name(name: str) -> str:
    """Where a field's rows stand: "data/state"; a field that is called as something else there,
    "data/observation.action". Different for different fields.
    """
    return f"data/{PREFIX if name in OWN or name.startswith(PREFIX) else ''}{name}"


@dataclass(frozen=True)
class Group:
    """Episodes of one environment, as a store's commit describes them.

    Attributes:
        environment: its id; path: its folder.
        interface: declared, or what its episodes tell; then with an action size of 0 until one of
            them has actions. None before the first of both.
        arrays: "data/<field>" of states and images, "text/<field>/..." (see `texts`),
            "data/action" (once its size is known), "data/reward", "data/success",
            "meta/episode_ends", "meta/timestamp", "meta/intervention" (once an episode has some);
            none before the first episode.
        ranges: of the states, and of the actions in episodes that have some; None in stores that
            were begun before they were kept.
    """

    environment: str
    path: Path
    interface: Interface | None = None
    episodes: int = 0
    steps: int = 0
    arrays: Mapping[str, ChunkedArray] = field(default_factory=dict)
    ranges: Ranges | None = field(default_factory=dict)

    @classmethod
    def named(cls, store: Path, environment: str) -> Group:
        """One without episodes. Raises UserError for an id that can be no folder."""
        folder = slug(environment)
        if folder in ("", "commit.json", "zarr.json", COLUMNS):
            raise UserError(
                f"{store}: '{environment}' cannot name an environment; expected an id such as "
                "'suite/task'; rename it"
            )
        return cls(environment, store / folder)

    @classmethod
    def from_json(cls, store: Path, facts: dict[str, Any], cache: ChunkCache) -> Group:
        """The group that `to_json` described."""
        group = cls.named(store, facts["id"])
        arrays = {
            name: ChunkedArray.from_json(group.path / name, a, cache)
            for name, a in facts["arrays"].items()
        }
        interface = facts["interface"]
        return replace(
            group,
            interface=None if interface is None else Interface.from_json(interface),
            episodes=facts["episodes"],
            steps=facts["steps"],
            arrays=arrays,
            ranges=_ranges_from_json(facts) if facts["episodes"] else {},
        )

    def to_json(self) -> dict[str, Any]:
        """How the commit describes it. Made once: a commit describes all environments anew."""
        return self._facts

    @cached_property
    def _facts(self) -> dict[str, Any]:
        known = self.ranges or {}
        ranges = {name: [low.tolist(), high.tolist()] for name, (low, high) in known.items()}
        return {
            **({} if self.ranges is None else {"ranges": ranges}),
            "id": self.environment,
            "interface": None if self.interface is None else self.interface.to_json(),
            "episodes": self.episodes,
            "steps": self.steps,
            "arrays": {name: a.to_json() for name, a in self.arrays.items()},
        }

    @property
    def part(self) -> Part:
        """Its arrays of steps."""
        fields = {} if self.interface is None else self.interface.observation
        return Part(
            {n: self.arrays[array_name(n)] for n in fields if array_name(n) in self.arrays},
            text_arrays(self.arrays),
            self.arrays.get("data/action"),
            self.arrays.get("data/reward"),
            self.arrays.get("data/success"),
            self.arrays.get(TIMES),
            self.arrays.get(MARKS),
        )

    # ---- description -----------------------------------------------------------------------------
    def declared(self, interface: Interface) -> Group:
        """The group with a description of its environment: what is unknown there stays as it is.

        Raises UserError for other fields, action sizes or rates than it has.
        """
        try:
            known = interface if self.interface is None else united(interface, self.interface)
        except ValueError as wrong:
            raise UserError(
                f"{self.path.parent}: '{self.environment}' is described otherwise: {wrong}; "
                "expected what the store holds of it; record into another store"
            ) from wrong
        if self.interface is not None and self.arrays:  # how precisely it is kept, too
            kept = self.interface.observation
            fields = {n: replace(f, dtype=kept[n].dtype) for n, f in known.observation.items()}
            known = replace(known, observation=fields)
        return replace(self, interface=known)

    def fitting(self, episode: Episode) -> Group:
        """The group with what an episode tells of its environment, where that was not known.

        Raises UserError for an episode of other fields, shapes or action size than it has.
        """
        size = 0 if episode.actions is None else episode.actions.shape[1]
        mine = self.interface
        try:
            fields = episode.fields
            if mine is None:
                mine = Interface(self.environment, fields, ActionSpec.unknown(size))
        except ValueError as error:
            raise UserError(
                f"{self.path.parent}: episode of '{self.environment}': {error}"
            ) from error
        wrong = other_fields(fields, mine.observation)
        if wrong is None and episode.actions is not None:
            if mine.action.size == 0:
                mine = replace(mine, action=ActionSpec.unknown(size))
            if size == 0:
                wrong = "actions have no numbers"
            elif size != mine.action.size:
                wrong = f"actions have {size} numbers, not {mine.action.size}"
        if wrong is not None:
            raise UserError(
                f"{self.path.parent}: an episode of '{self.environment}' does not fit: {wrong}; "
                "expected what the store holds of it; record into another store"
            )
        return replace(self, interface=mine)

    # ---- episodes --------------------------------------------------------------------------------
    def extended(self, episodes: Sequence[Episode], cache: ChunkCache) -> Group:
        """The group with more episodes of its environment, which are on disk when this returns and
        count when the store commits.

        Time: O(steps added), and O(steps) once where actions, time stamps or interventions come
        after episodes without.
        """
        group: Group = self
        for e in episodes:
            group = group.fitting(e)
        interface = group.interface
        assert interface is not None
        if not self.arrays:
            write_group(self.path, cache)
            for name in ("data", "meta"):
                write_group(self.path / name, cache)
            for name in interface.of_kind("text"):
                write_group(self.path / FOLDER, cache)
                write_group(self.path / FOLDER / name, cache)
        ends = self.steps + np.cumsum([len(e) for e in episodes], dtype=np.int64)
        added = {
            "data/reward": np.concatenate([e.rewards for e in episodes]).astype(np.float32),
            "data/success": np.concatenate([e.successes for e in episodes]).astype(bool),
        }
        for name, f in interface.observation.items():
            values: list[Any] = [e.observations[name] for e in episodes]
            if f.kind == "text":
                bytes_there = self.arrays.get(f"{FOLDER}/{name}/{BYTES}")
                added |= added_texts(name, values, 0 if bytes_there is None else bytes_there.rows)
            else:
                added[array_name(name)] = np.concatenate(values).astype(f.dtype, copy=False)
        width = interface.action.size
        if width:
            added["data/action"] = np.concatenate(
                [np.zeros((len(e), width)) if e.actions is None else e.actions for e in episodes]
            ).astype(np.float32)
        if TIMES in self.arrays or any(e.timestamps is not None for e in episodes):
            added[TIMES] = np.concatenate(
                [
                    np.full(len(e), np.nan) if e.timestamps is None else e.timestamps
                    for e in episodes
                ]
            )
        if MARKS in self.arrays or any(e.interventions is not None for e in episodes):
            marks = [e.interventions for e in episodes]
            added[MARKS] = np.concatenate(
                [np.zeros(len(e), bool) if m is None else m for e, m in zip(episodes, marks)]
            )
        added[ENDS] = ends
        arrays = dict(self.arrays)
        for name, value in added.items():
            if name not in arrays:
                short = name == ENDS or name.endswith(f"/{TEXT_ENDS}")
                size = {"size": COLUMN_BYTES} if short else {}
                arrays[name] = ChunkedArray.empty(
                    self.path / name, value.shape[1:], value.dtype.name, cache, **size
                )
                if name == "data/action" and self.steps:
                    arrays[name] = arrays[name].extended(np.zeros((self.steps, width), np.float32))
                elif name == TIMES and self.steps:
                    arrays[name] = arrays[name].extended(np.full(self.steps, np.nan))
                elif name == MARKS and self.steps:
                    arrays[name] = arrays[name].extended(np.zeros(self.steps, bool))
            arrays[name] = arrays[name].extended(value)
        seen = {n: added[n] for n in map(array_name, interface.of_kind("state")) if n in added}
        if any(e.actions is not None for e in episodes):
            own = np.repeat([e.actions is not None for e in episodes], [len(e) for e in episodes])
            seen["data/action"] = added["data/action"][own]
        return replace(
            group,
            episodes=self.episodes + len(episodes),
            steps=int(ends[-1]),
            arrays=arrays,
            ranges=None if self.ranges is None else _widened(self.ranges, seen),
        )

    def ends(self) -> np.ndarray:
        """(episodes,) one past the last step of each; UserError where they disagree with the
        commit.
        """
        if not self.episodes:
            return np.array([], dtype=np.int64)
        ends = self.arrays[ENDS].read(0, self.episodes)
        if (np.diff(ends, prepend=0) <= 0).any() or ends[-1] != self.steps:
            raise UserError(
                f"{self.path / ENDS}: does not increase up to {self.steps} steps; restore the "
                "store from a copy"
            )
        return ends


def _widened(ranges: Ranges, added: Mapping[str, np.ndarray]) -> Ranges:
    """Ranges with those of further rows (n, D) by array, of which there are some. Of wide arrays
    they are those of the first RANGED numbers: every opening reads them.
    """
    out = dict(ranges)
    for name, rows in added.items():
        low, high = extremes(rows[:, :RANGED])
        if name in out:
            low, high = np.minimum(out[name][0], low), np.maximum(out[name][1], high)
        out[name] = low, high
    return out


def _ranges_from_json(facts: Mapping[str, Any]) -> Ranges | None:
    known = facts.get("ranges")
    if known is None:
        return None
    kinds = {name: facts["arrays"][name]["dtype"] for name in known}
    return {n: (np.array(a, kinds[n]), np.array(b, kinds[n])) for n, (a, b) in known.items()}
