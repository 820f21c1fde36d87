"""Stores as recordings of other frameworks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from alltrades.data.columns import INTERVENTIONS as MARKS
from alltrades.data.columns import UNMARKED
from alltrades.data.episode import Episode
from alltrades.data.formats.export_hdf5 import write_minari, write_robomimic
from alltrades.data.formats.export_lerobot import write_lerobot
from alltrades.data.formats.export_plain import write_npz, write_zarr
from alltrades.data.formats.hdf5 import SUFFIXES
from alltrades.data.formats.mapping import (
    ACTIONS,
    INTERVENTIONS,
    REWARDS,
    SUCCESSES,
    TIMES,
    field_of,
)
from alltrades.data.formats.npz import ENDS
from alltrades.data.interface import Interface
from alltrades.data.store import EpisodeStore
from alltrades.errors import MissingExtra, UserError
from alltrades.system.files import remove

WRITERS: dict[str, Callable[..., list[str] | None]] = {
    "lerobot": write_lerobot,
    "robomimic": write_robomimic,
    "minari": write_minari,
    "diffusion_policy": write_zarr,
    "npz": write_npz,
}
TEXTLESS = ("diffusion_policy",)
KEYS = {"lerobot": "observation.{}", "robomimic": "obs/{}", "minari": "observations/{}"}


@dataclass(frozen=True)
class Export:
    """One environment's episodes of a store, on their way into another format.

    Attributes:
        index: (n,) numbers of the episodes. rate: steps per second, or None.
        timed, marked: (n,) bool, which have time stamps, and marks of interventions.
    """

    store: EpisodeStore
    interface: Interface
    index: np.ndarray
    rate: float | None
    timed: np.ndarray
    marked: np.ndarray

    @classmethod
    def of(cls, store: EpisodeStore, environment: str | None, rate: float | None) -> Export:
        """The episodes of an environment, or of the only one.

        Raises UserError for several of which none is named, for one that is not there, for
        episodes without actions, and for a rate that is not finite and above 0.
        """
        if rate is not None and not 0 < rate < np.inf:
            raise UserError(
                f"{store.path}: a rate of {rate:g} Hz; expected a finite number above 0; mend it"
            )
        columns, known = store.columns(), store.interfaces()
        there = sorted(set(columns["environment"].tolist()))
        if environment is None and len(there) != 1:
            raise UserError(
                f"{store.path}: environments {', '.join(there) or 'none'}; expected one; name it "
                "with --environment"
            )
        name = environment or there[0]
        if name not in there or name not in known:
            raise UserError(
                f"{store.path}: no episodes of '{name}'; expected one of "
                f"{', '.join(there)}; check the id"
            )
        index = np.flatnonzero(columns["environment"] == name)
        silent = int((~columns["has_actions"][index]).sum())
        if silent:
            raise UserError(
                f"{store.path}: {silent} of {len(index)} episodes of '{name}' have no actions; "
                "expected them in all; leave those out: `alltrades data filter --where actions`"
            )
        fields = known[name].observation
        taken = [n for n in fields if n in (*ACTIONS, *REWARDS, *SUCCESSES, *TIMES, *INTERVENTIONS)]
        if taken:
            raise UserError(
                f"{store.path}: a field called '{taken[0]}', which is no observation "
                "in other formats; expected another name; `alltrades data rename`"
            )
        rate = known[name].control_hz if rate is None else rate
        timed = store.timed(index)
        marked = columns.get(MARKS, np.full(len(store), UNMARKED))[index] != UNMARKED
        return cls(store, known[name], index, rate, timed, marked)

    def episodes(self) -> Iterator[Episode]:
        """In order, one in memory at a time; with time stamps and marks of interventions where all
        have some.
        """
        for i in self.index.tolist():
            episode = self.store.episode(i)
            yield replace(
                episode,
                timestamps=episode.timestamps if self.timed.all() else None,
                interventions=episode.interventions if self.marked.all() else None,
            )

    def write(
        self,
        kind: str,
        out: Path,
        report: Callable[[int, int], None] = lambda done, total: None,
        video: str | None = None,
    ) -> list[str]:
        """Write the episodes to a new file or folder, which appears when it is whole; cameras as
        videos of a codec where `video` says so.

        Returns what is left out or lost, in words. Raises UserError when something is there, for a
        format that has no videos, and for a field whose name the format has another use for.
        """
        if video is not None and kind != "lerobot":
            raise UserError(f"--video: {kind} has no videos; expected lerobot; leave it out")
        if out.exists():
            raise UserError(
                f"{out}: something is there already; expected a new path; choose "
                "another, or delete it"
            )
        if kind == "robomimic" and out.suffix not in SUFFIXES:
            raise UserError(
                f"{out}: {kind}'s format is one file of HDF5; expected a name that ends in "
                f"{SUFFIXES[0]}, by which it is found; rename it"
            )
        for name in self.interface.observation:
            if field_of(KEYS.get(kind, "{}").format(name)) != name or (kind, name) == ("npz", ENDS):
                raise UserError(
                    f"{self.store.path}: a field called '{name}', which {kind} would not give back "
                    "under its name; expected another name; `alltrades data rename`"
                )
        partial = out.with_name(f".{out.name}.exporting{out.suffix}")
        remove(partial)
        out.parent.mkdir(parents=True, exist_ok=True)

        def counted() -> Iterator[Episode]:
            for done, episode in enumerate(self.episodes()):
                report(done, len(self.index))
                yield episode
            report(len(self.index), len(self.index))

        facts: dict[str, Any] = {"interface": self.interface, "rate": self.rate}
        facts |= {} if video is None else {"video": video}
        try:
            lost = WRITERS[kind](counted(), partial, **facts) or []
            partial.rename(out)
        except ModuleNotFoundError as error:
            raise MissingExtra(
                f"{error.name} is not installed; expected it to write this format", "formats"
            ) from error
        finally:
            remove(partial)
        left_out = [
            f"left out: '{name}' is text, which this format has no place for"
            for name in self.interface.of_kind("text")
            if kind in TEXTLESS
        ]
        for which, what in (
            (self.timed, "time stamps"),
            (self.marked, "marks of interventions"),
        ):
            if which.any() and not which.all():
                few, many = int(which.sum()), len(which)
                left_out.append(f"left out: {what}, which {few} of {many} episodes have")
        return [*left_out, *lost]
