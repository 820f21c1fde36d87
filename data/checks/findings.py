"""What a check of a store found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
SHOWN = 3  # findings of one kind about one field that are printed


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        severity: error: what is learned from it is wrong. warning: it may be meant. note: good to
            know.
        kind: one word, such as "frozen".
        what, remedy: what was found, and what to do.
        episode: its number in the store. step: within the episode. Both count from 0; None where
            the finding is of all.
        field, dimension: "action" or an observation, and which of its numbers.
    """

    severity: Severity
    kind: str
    environment: str
    what: str
    remedy: str
    episode: int | None = None
    step: int | None = None
    field: str | None = None
    dimension: int | None = None
    store: str = ""

    @property
    def where(self) -> str:
        words = [self.environment]
        words += [] if self.episode is None else [f"episode {self.episode}"]
        words += [] if self.step is None else [f"step {self.step}"]
        return ", ".join(words)

    def __str__(self) -> str:
        return f"{self.severity}: {self.kind}: {self.where}: {self.what}; {self.remedy}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def by_severity(found: Sequence[Finding]) -> list[Finding]:
    """Worst first, else in order."""
    return sorted(found, key=lambda f: SEVERITIES.index(f.severity))


def lines(
    found: Sequence[Finding], severities: Sequence[Severity] = SEVERITIES, shown: int = SHOWN
) -> Iterator[str]:
    """Findings of these severities, worst first; of one kind about one field the first `shown`."""
    groups: dict[tuple[str, ...], list[Finding]] = {}
    for f in found:
        groups.setdefault((f.severity, f.store, f.environment, f.kind, f.field or ""), []).append(f)
    for severity in severities:
        for key, group in groups.items():
            if key[0] != severity:
                continue
            yield from (str(f) for f in group[:shown])
            if len(group) > shown:
                yield f"{severity}: {key[3]}: {key[2]}: {len(group) - shown} more like these"
