"""What adaptations of several seeds and left-out environments say together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from alltrades.envs.rollouts.differences import over_seeds
from alltrades.envs.rollouts.evaluation import Evaluation
from alltrades.envs.rollouts.verdicts import Paired, paired
from alltrades.studies.result import StudyResult, Table

ALL = "all"
PAIRS = {  # rows that are compared, and of which environments they are
    "before": ("after", "before"),
    "new": ("after (new)", "scratch"),
}


@dataclass(frozen=True)
class Adapted:
    """One adaptation: the environment that was left out, its demonstrations, the training seed, and
    evaluations before and after in the others, and of scratch and after in the new one.
    """

    left: str
    demonstrations: int
    seed: int
    rows: Mapping[str, Evaluation]


def summarise(title: str, found: Sequence[Adapted]) -> StudyResult:
    """Success of every row and the paired differences, by left-out environment and for all."""
    cells = sorted({(a.left, a.demonstrations) for a in found})
    success: list[list[Any]] = []
    differences: list[list[Any]] = []
    for left, count in cells:
        mine = [a for a in found if (a.left, a.demonstrations) == (left, count)]
        for row in dict.fromkeys(name for a in mine for name in a.rows):
            r = over_seeds([a.rows[row] for a in mine])
            success.append([left, count, row, r.mean, *r.interval, len(r.environments)])
    counts = sorted({count for _, count in cells})
    lefts = [*dict.fromkeys(left for left, _ in cells), ALL]
    for count in counts:
        for left in lefts if len(lefts) > 2 else lefts[:1]:
            mine = [a for a in found if a.demonstrations == count and left in (ALL, a.left)]
            for of, (a, b) in PAIRS.items():
                pair = difference(mine, a, b)
                if pair is None:
                    continue
                low, high = _widest(pair)
                differences.append(
                    [left, count, f"{a} - {b}", of, pair.mean, low, high, pair.verdict, pair.n]
                )
    tables = [
        Table(
            "success",
            ("left out", "demonstrations", "row", "success", "low", "high", "environments"),
            success,
            "mean success; 95 % intervals over starts",
        ),
        Table(
            "differences",
            (
                "left out",
                "demonstrations",
                "a - b",
                "environments",
                "difference",
                "low",
                "high",
                "verdict",
                "starts",
            ),
            differences,
            "paired differences; the wider of 95 % intervals over starts and over training seeds",
        ),
    ]
    seeds = sorted({a.seed for a in found})
    lead = (
        f"Generalists of all environments but one adapted to it; training seeds "
        f"{', '.join(map(str, seeds))}."
    )
    findings = [
        f"{left}, {count} demonstrations: {of} {name} {value:+.3f} [{low:+.3f}, {high:+.3f}] {word}"
        for left, count, name, of, value, low, high, word, _ in differences
    ]
    return StudyResult(title, lead, findings, tables)


def difference(found: Sequence[Adapted], a: str, b: str) -> Paired | None:
    """a - b on common starts, over left-out environments and training seeds; None where a row is
    missing.
    """
    if any(name not in adapted.rows for adapted in found for name in (a, b)):
        return None
    starts: dict[str, list[np.ndarray]] = {}
    of_seed: dict[int, list[float]] = {}
    for adapted in found:
        theirs = {r.environment: r for r in adapted.rows[b].rows}
        for r in adapted.rows[a].rows:
            values = r.values() - theirs[r.environment].values()
            starts.setdefault(f"{adapted.left}: {r.environment}", []).append(values)
            of_seed.setdefault(adapted.seed, []).append(float(values.mean()))
    merged = {name: np.mean(each, axis=0) for name, each in starts.items()}
    return paired(merged, seeds=[float(np.mean(v)) for v in of_seed.values()], bounds=(-1.0, 1.0))


def _widest(pair: Paired) -> tuple[float, float]:
    """From the lower to the higher end of both intervals."""
    low, high = pair.interval
    if pair.seed_interval is None:
        return low, high
    return min(low, pair.seed_interval[0]), max(high, pair.seed_interval[1])
