"""Chosen episodes of some stores into a new one, which appears when it is whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from alltrades.data.commit import COMMIT
from alltrades.data.editing.agreed import agreed
from alltrades.data.editing.table import Table
from alltrades.data.episode import Episode
from alltrades.data.interface import Interface
from alltrades.data.store import EpisodeStore
from alltrades.errors import UserError
from alltrades.system.files import remove
from alltrades.system.refusals import writing

Report = Callable[[int, int], None]
MADE = "made"  # in the provenance: by what command, of which episodes of which stores


class Change:
    """What becomes of descriptions and episodes on their way; here nothing.

    `facts` tell one change from another.
    """

    facts: Mapping[str, Any] = {}

    def interface(self, interface: Interface) -> Interface:
        """What the new store says of an environment."""
        return interface

    def episode(self, index: int, episode: Episode) -> Episode:
        """The episode with this number in the table, as it is kept."""
        return episode


@dataclass
class Copy:
    """Some episodes of a table, in order, on their way into a new store.

    Attributes:
        index: (n,) numbers of the episodes in the table, ascending.
        command: its name and options, for the provenance.
    """

    table: Table
    index: np.ndarray
    out: Path
    command: Mapping[str, Any]
    change: Change = field(default_factory=Change)

    @property
    def partial(self) -> Path:
        """Where the store stands until it is whole."""
        return self.out.with_name(f".{self.out.name}.copying")

    def run(self, report: Report = lambda done, total: None) -> EpisodeStore:
        """Write the store; what an interrupted command left goes on where it was.

        Memory is bounded by what `EpisodeStore.extend` keeps. Raises UserError when something is at
        `out`, for descriptions that differ, and for episodes that cannot be read; then nothing is
        left behind.
        """
        check_new(self.out)
        self.write(report)
        return self.finish()

    def write(self, report: Report) -> None:
        """Everything but the last step."""
        interfaces = self._interfaces()
        try:
            with self._begin(interfaces) as store:
                store.extend(self._episodes(len(store), report))
                if "sources" not in store.provenance.get(MADE, {}):
                    store.set_provenance(**self._origin())
        except _Unreadable:
            remove(self.partial)
            raise

    def finish(self) -> EpisodeStore:
        """The last step: the store is there."""
        with writing(self.out):
            self.partial.rename(self.out)
        return EpisodeStore.open(self.out)

    @property
    def done(self) -> bool:
        """Whether this command's whole store is there already."""
        if not (self.out / COMMIT).is_file():
            return False
        made = EpisodeStore.open(self.out).provenance.get(MADE) or {}
        return bool(made.get("identity") == self.identity)

    def _interfaces(self) -> list[Interface]:
        """Of the environments that have chosen episodes."""
        described = []
        names = self.table.columns["environment"]
        for k, store in enumerate(self.table.stores):
            mine = set(names[self.index[self.table.store[self.index] == k]].tolist())
            for name, interface in store.interfaces().items():
                if name in mine:
                    described.append((str(store.path), self.change.interface(interface)))
        return list(agreed(described).values())

    def _begin(self, interfaces: list[Interface]) -> EpisodeStore:
        facts = {MADE: {**self.command, "identity": self.identity}}
        kinds = {store.provenance.get("kind") for store in self.table.stores}
        kind = kinds.pop() if len(kinds) == 1 else None
        facts |= {} if kind is None else {"kind": kind}
        if not (self.partial / COMMIT).exists():
            with writing(self.partial):
                self.partial.parent.mkdir(parents=True, exist_ok=True)
                try:
                    return EpisodeStore.create(self.partial, interfaces, facts)
                except UserError:
                    if not (self.partial / COMMIT).exists():
                        remove(self.partial)
                    raise
        store = EpisodeStore.open(self.partial, "a")
        if (store.provenance.get(MADE) or {}).get("identity") != self.identity:
            store.close()
            raise UserError(
                f"{self.partial}: another command that makes {self.out} is unfinished, or its "
                "stores have changed; expected the same command, which goes on with it; give it "
                "again, or delete that folder"
            )
        return store

    @cached_property
    def identity(self) -> str:
        """Of what decides the outcome."""
        facts = [
            [[str(s.path.resolve()), s.digest()] for s in self.table.stores],
            dict(self.command),
            dict(self.change.facts),
            hashlib.sha256(self.index.astype("<i8").tobytes()).hexdigest(),
        ]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    def _episodes(self, first: int, report: Report) -> Iterator[Episode]:
        total = len(self.index)
        report(first, total)
        for done, i in enumerate(self.index[first:].tolist(), first + 1):
            store = self.table.stores[self.table.store[i]]
            try:
                episode = self.change.episode(i, store.episode(int(self.table.number[i])))
            except UserError as error:
                raise _Unreadable(str(error)) from error
            yield episode
            report(done, total)

    def _origin(self) -> dict[str, Any]:
        """Where each episode comes from: those of the first source first, in order."""
        sources = []
        for k, store in enumerate(self.table.stores):
            mine = self.index[self.table.store[self.index] == k]
            sources.append(
                {
                    "store": str(store.path.resolve()),
                    "digest": store.digest(),
                    "episodes": ranges(self.table.number[mine]),
                    "provenance": store.provenance,
                }
            )
        return {MADE: {**self.command, "identity": self.identity, "sources": sources}}


def run_parts(copies: Sequence[Copy], report: Report) -> list[EpisodeStore]:
    """Several copies that belong together: all are written before the first is there. What an
    interrupted command left goes on.
    """
    left = [c for c in copies if not c.done] or copies
    outs = [c.out.absolute() for c in copies]
    for copy in left:
        check_new(copy.out)
        if outs.count(copy.out.absolute()) > 1:
            raise UserError(f"{copy.out}: named twice; expected a path for each part")
    for copy in left:
        copy.write(report)
    for copy in left:
        copy.finish()
    return [EpisodeStore.open(c.out) for c in copies]


class _Unreadable(UserError):
    """An episode that its store cannot give, or that cannot be changed so."""


def check_new(out: Path) -> None:
    """UserError where something is there, or where a store would stand inside another."""
    if out.exists() or out.is_symlink():
        raise UserError(
            f"{out}: something is there already; expected a new path; choose another, or delete it"
        )
    for parent in out.absolute().parents:
        if (parent / COMMIT).exists():
            raise UserError(
                f"{out}: inside the store {parent}; expected a path outside; choose another"
            )


def ranges(numbers: np.ndarray) -> str:
    """Ascending numbers in short: "0-9, 12"."""
    if not len(numbers):
        return ""
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1)
    return ", ".join(f"{r[0]}" if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in runs)
