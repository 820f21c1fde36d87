"""What `rename` and `relabel` change."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from alltrades.data.editing.copying import Change
from alltrades.data.editing.table import Table
from alltrades.data.episode import Episode
from alltrades.data.fields import NAME, TEXTS, Field, field_name, text_field
from alltrades.data.interface import Interface
from alltrades.data.store import EpisodeStore
from alltrades.errors import UserError, nearest

LABELS = ("success", "instruction", "source")
SUCCESS: dict[str, bool | None] = {"true": True, "1": True, "false": False, "0": False}
SUCCESS["unknown"] = None
ADDED = TEXTS[1]  # the field that an instruction becomes where there is no text


@dataclass
class Rename(Change):
    """Other names of environments and fields, all at once: a=b b=a swaps two."""

    environments: Mapping[str, str]
    fields: Mapping[str, str]

    @classmethod
    def of(cls, store: EpisodeStore, words: Sequence[str]) -> Rename:
        """From "OLD=NEW"; UserError for what is neither an environment nor a field, or both, and
        for names that cannot be or are taken.
        """
        interfaces = store.interfaces()
        fields = list(dict.fromkeys(n for i in interfaces.values() for n in i.observation))
        change = cls({}, {})
        for word in words:
            old, separator, new = word.partition("=")
            if not (separator and old and new):
                raise UserError(f"'{word}': expected OLD=NEW, such as lab/pik=lab/pick; mend it")
            named = old in interfaces, field_name(old) in fields
            if not any(named):
                known = [*interfaces, *fields]
                raise UserError(
                    f"{store.path}: no environment or field '{old}'{nearest(old, known)}; expected "
                    f"one of {', '.join(known)}"
                )
            if all(named):
                raise UserError(
                    f"{store.path}: '{old}' is an environment and a field; expected one of them; "
                    f"write observation.{old}={new} for the field"
                )
            if named[1] and not NAME.fullmatch(field_name(new)):
                raise UserError(
                    f"a field called '{new}'; expected letters, digits, _ and -, with single dots "
                    "between them, such as 'images.front'"
                )
            names = change.environments if named[0] else change.fields
            key, value = (old, new) if named[0] else (field_name(old), field_name(new))
            if key in names:
                raise UserError(f"'{word}': '{old}' is renamed twice; expected one new name")
            names[key] = value  # type: ignore[index]
        for interface in interfaces.values():
            change.interface(interface)
        return change

    @property
    def facts(self) -> Mapping[str, Any]:  # type: ignore[override]
        return vars(self)

    def interface(self, interface: Interface) -> Interface:
        named = [self.fields.get(name, name) for name in interface.observation]
        for name in named:
            if named.count(name) > 1:
                raise UserError(
                    f"'{interface.id}' would have two fields '{name}'; expected a name each; "
                    "choose another"
                )
        observation = dict(zip(named, interface.observation.values()))
        return replace(
            interface,
            id=self.environments.get(interface.id, interface.id),
            observation=observation,
        )

    def episode(self, index: int, episode: Episode) -> Episode:
        return replace(
            episode,
            environment=self.environments.get(episode.environment, episode.environment),
            observations={self.fields.get(k, k): v for k, v in episode.observations.items()},
        )


@dataclass
class Relabel(Change):
    """Other labels of some episodes.

    Attributes:
        labels: by number in the table: success ("true", "false", "unknown"), instruction, source.
        added: environments without text that get the field ADDED.
    """

    labels: Mapping[int, Mapping[str, str]]
    added: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, table: Table, labels: Mapping[int, Mapping[str, str]]) -> Relabel:
        """UserError for labels that cannot be, and where an instruction has no field: none of
        several texts is called as one, or some of an environment's episodes would be without.
        """
        change = cls(labels)
        (store,) = table.stores
        for given in labels.values():
            if wrong := _wrong(given):
                raise UserError(f"{wrong}; mend it")
        told = np.array([i for i, given in labels.items() if "instruction" in given], np.int64)
        names = table.columns["environment"]
        for name, interface in store.interfaces().items():
            mine = int((names[told] == name).sum())
            if not mine or text_field(interface.observation) is not None:
                continue
            if interface.of_kind("text"):
                raise UserError(
                    f"{store.path}: '{name}' has the texts "
                    f"{', '.join(interface.of_kind('text'))}; expected one called "
                    f"{' or '.join(TEXTS)}; rename it (`alltrades data rename`)"
                )
            if mine < (names == name).sum():
                raise UserError(
                    f"{store.path}: '{name}' has no text, and {mine} of {(names == name).sum()} "
                    "episodes would get an instruction; expected one for all; give all of them one"
                )
            if ADDED in interface.observation:
                raise UserError(
                    f"{store.path}: '{ADDED}' of '{name}' is no text; expected it free for the "
                    "instruction; rename it (`alltrades data rename`)"
                )
            change.added.add(name)
        return change

    @property
    def facts(self) -> Mapping[str, Any]:  # type: ignore[override]
        return {"labels": [[i, dict(given)] for i, given in sorted(self.labels.items())]}

    def interface(self, interface: Interface) -> Interface:
        if interface.id not in self.added:
            return interface
        return replace(interface, observation={**interface.observation, ADDED: Field.text()})

    def episode(self, index: int, episode: Episode) -> Episode:
        given = self.labels.get(index, {})
        changes: dict[str, Any] = {}
        if "source" in given:
            changes["source"] = given["source"]
        if "instruction" in given:
            name = text_field(episode.fields) or ADDED
            changes["observations"] = {**episode.observations, name: given["instruction"]}
        if "success" in given and SUCCESS[given["success"].lower()] is not episode.success:
            changes |= judged(episode, SUCCESS[given["success"].lower()])
        return replace(episode, **changes)


def judged(episode: Episode, success: bool | None) -> dict[str, Any]:
    """What a verdict changes of an episode: success comes with its last step."""
    flags = np.zeros(len(episode), bool)
    flags[-1] = success is True
    first = None if success is None else len(episode) if success else -1
    return {"success": success, "first_success": first, "successes": flags}


def _wrong(labels: Mapping[str, str]) -> str | None:
    """What is wrong with an episode's labels, and what was expected."""
    success, source = labels.get("success", "unknown"), labels.get("source")
    if success.lower() not in SUCCESS:
        return f"success '{success}'; expected true, false or unknown"
    return None if source is None or source.strip() else "an empty source; expected a name"


def labels_of(path: Path, table: Table) -> dict[int, dict[str, str]]:
    """Labels by episode from a CSV with a column episode and some of LABELS; an empty cell changes
    nothing.

    Raises UserError, with the line, for what it cannot be.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            named = list(reader.fieldnames or ())
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"{path}: cannot be read ({error}); expected a CSV; check the path"
        ) from error
    other = [n for n in named if n not in ("episode", *LABELS) or named.count(n) > 1]
    if "episode" not in named or len(named) < 2 or other:
        raise UserError(
            f"{path}: columns {', '.join(map(str, named)) or 'none'}; expected episode and some "
            f"of {', '.join(LABELS)}, each once; mend its first line"
        )
    out: dict[int, dict[str, str]] = {}
    for line, row in rows:
        said = (row["episode"] or "").strip()
        number = int(said) if said.isascii() and said.isdigit() and len(said) < 19 else -1
        if None in row:
            raise UserError(
                f"{path}: line {line}: more cells than columns; expected as many; mend that line"
            )
        if not 0 <= number < len(table) or number in out:
            raise UserError(
                f"{path}: line {line}: episode '{said}'; expected each of 0 to {len(table) - 1} "
                "at most once; mend that line"
            )
        out[number] = {k: row[k] for k in LABELS if row.get(k)}
        if wrong := _wrong(out[number]):
            raise UserError(f"{path}: line {line}: {wrong}; mend that line")
    return {i: given for i, given in out.items() if given}
