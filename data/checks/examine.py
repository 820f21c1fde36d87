"""All checks of stores, each in one pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from alltrades.data.checks.broken import Lengths, NotFinite, Short, Texts
from alltrades.data.checks.cameras import Cameras
from alltrades.data.checks.check import Check
from alltrades.data.checks.constant import Constant
from alltrades.data.checks.declared import Bounds, Described
from alltrades.data.checks.duplicates import Duplicates
from alltrades.data.checks.findings import Finding, by_severity
from alltrades.data.checks.idle import Idle
from alltrades.data.checks.imports import said
from alltrades.data.checks.lag import Lag
from alltrades.data.checks.outliers import Outliers
from alltrades.data.checks.saturated import Saturated
from alltrades.data.checks.scale import Scale, sample
from alltrades.data.checks.subject import Subject, subjects
from alltrades.data.checks.success import Successes
from alltrades.data.checks.times import Times
from alltrades.data.checks.units import unlike
from alltrades.data.checks.wrapping import Wrapping
from alltrades.data.interface import Interface
from alltrades.data.store import EpisodeStore

NUMBERS: tuple[type[Check], ...] = (
    NotFinite,
    Short,
    Lengths,
    Texts,
    Times,
    Constant,
    Saturated,
    Wrapping,
    Outliers,
    Idle,
    Duplicates,
    Lag,
    Described,
    Bounds,
    Successes,
)
ALL: tuple[type[Check], ...] = (*NUMBERS, Cameras)
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Examined:
    """What was found in one environment of a store, and by what."""

    subject: Subject
    scales: Mapping[str, Scale]
    checks: tuple[Check, ...]
    found: tuple[Finding, ...]


def examine(
    subject: Subject, kinds: Sequence[type[Check]] = ALL, progress: Progress = lambda a, b: None
) -> Examined:
    """Check one environment. Time O(steps), the bytes of pictures are read once; memory of a block,
    and O(episodes).

    Raises UserError for files that are damaged.
    """
    seen = sample(subject) if subject.numbers else []
    scales = {name: Scale.of(seen, name) for name in subject.numbers}
    checks = tuple(kind(subject, scales, seen) for kind in kinds)
    for block in subject.blocks() if subject.numbers else ():
        for check in checks:
            check.see(block)
        progress(block.first + len(block.start), len(subject.episodes))
    return Examined(subject, scales, checks, tuple(f for c in checks for f in c.found()))


def examine_stores(
    stores: Sequence[EpisodeStore],
    expected: Mapping[str, Interface],
    environment: str | None = None,
    kinds: Sequence[type[Check]] = ALL,
    progress: Progress = lambda a, b: None,
) -> tuple[list[Finding], list[Examined]]:
    """Check every environment of stores, and units between them; findings worst first.

    Args:
        expected: what registered environments are, by id.
        environment: id of what foreign stores are of.
    """
    done: list[Examined] = []
    found: list[Finding] = []
    before, total = 0, sum(map(len, stores))
    for store in stores:
        for subject in subjects(store, expected, environment):
            ahead = partial(_ahead, progress, before, total)
            done.append(examine(subject, kinds, ahead))
            before += len(subject.episodes)
            found += done[-1].found
        found += said(store)
    found += unlike([(e.subject, e.scales) for e in done])
    return by_severity(found), done


def _ahead(progress: Progress, before: int, total: int, done: int, _: int) -> None:
    progress(before + done, total)
