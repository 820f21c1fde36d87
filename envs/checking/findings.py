"""What a check of an environment found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from alltrades.errors import UserError

Level = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing that was found. error: nothing may be measured with it. warning: it may be meant.
    note: good to know.
    """

    level: Level
    what: str


@dataclass(frozen=True)
class Findings:
    """Of one environment.

    rebuild: whether its reset leaves something of the episode before, so that every episode needs a
    new instance.
    """

    environment: str
    all: tuple[Finding, ...] = ()
    rebuild: bool = False

    def of(self, level: Level) -> list[str]:
        return [found.what for found in self.all if found.level == level]

    @property
    def ok(self) -> bool:
        return not self.of("error")

    def require(self) -> None:
        """Raises UserError with the first error."""
        for what in self.of("error"):
            raise UserError(f"environment '{self.environment}': {what}")

    def lines(self, levels: Sequence[Level] = ("error", "warning", "note")) -> list[str]:
        """Of these levels, one line each, worst first."""
        return [f"{level}: {what}" for level in levels for what in self.of(level)]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Findings:
        """From what `to_json` gave; raises TypeError or KeyError for anything else."""
        found = tuple(Finding(**each) for each in value["all"])
        return cls(value["environment"], found, value["rebuild"])
