"""What claims are judged from: rows of result tables, changes between cells with intervals, and
three verdicts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import hypot
from typing import Any, Literal, NamedTuple

from alltrades.envs.rollouts.verdicts import EQUAL

Verdict = Literal["held", "refuted", "undecided"]
Row = dict[str, Any]
Results = Mapping[str, Any]


@dataclass(frozen=True)
class Claim:
    """A statement that an experiment can refute, the verdict, and the numbers that it rests on."""

    text: str
    verdict: Verdict
    numbers: str

    def __str__(self) -> str:
        return f"{self.verdict}: {self.text} ({self.numbers})"


class Change(NamedTuple):
    """A difference and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def table(results: Results, name: str) -> list[Row]:
    """Rows of a table as mappings; none for a table that is not there."""
    found = results["tables"].get(name)
    return [] if found is None else [dict(zip(found["columns"], row)) for row in found["rows"]]


def differences(results: Results, pair: str, key: str, name: str = "differences") -> list[Row]:
    """Rows of one pair "a - b" in the order of a setting."""
    return sorted((r for r in table(results, name) if r["a - b"] == pair), key=lambda r: r[key])


def rows_of(
    results: Results, row: str, key: str, name: str = "success", **values: Any
) -> list[Row]:
    """Means of one row at these values of other settings, in the order of a setting."""
    found = [
        r
        for r in table(results, name)
        if r["row"] == row and all(r[k] == v for k, v in values.items())
    ]
    return sorted(found, key=lambda r: r[key])


def interval(row: Row) -> Change:
    """A paired difference as the study measured it."""
    return Change(row["difference"], row["low"], row["high"])


def change(a: Row, b: Row, value: str = "success") -> Change:
    """a - b of two cells from their own intervals, added in squares (Newcombe 1998).

    That is the interval of independent measurements. Cells share their starts, and what succeeds
    from a start in one mostly does in the other, so that it is too wide rather than too narrow.
    """
    x, y = a[value], b[value]
    return Change(
        x - y,
        x - y - hypot(x - a["low"], b["high"] - y),
        x - y + hypot(a["high"] - x, y - b["low"]),
    )


def said(rows: Sequence[Row], key: str, value: str = "difference") -> str:
    """ "5: +0.100 [+0.050, +0.150], ..." by the values of a setting."""
    sign = "+" if value == "difference" else ""
    return ", ".join(
        f"{r[key]}: {r[value]:{sign}.3f} [{r['low']:{sign}.3f}, {r['high']:{sign}.3f}]"
        for r in rows
    )


# ---- verdicts ------------------------------------------------------------------------------------
def word(held: bool, refuted: bool) -> Verdict:
    """Refuted before held; neither: undecided."""
    return "refuted" if refuted else "held" if held else "undecided"


def missing(text: str) -> Claim:
    """A claim whose rows or values of the setting were not measured."""
    return Claim(text, "undecided", "not measured")


def above(rows: Sequence[Row]) -> Verdict:
    """Held where every paired difference is BETTER, refuted where one is WORSE."""
    return word(
        bool(rows) and all(r["verdict"] == "BETTER" for r in rows),
        any(r["verdict"] == "WORSE" for r in rows),
    )


def no_lower(changes: Sequence[Change]) -> Verdict:
    """Held where all intervals lie above -EQUAL, refuted where one lies below it."""
    return word(
        bool(changes) and all(c.low > -EQUAL for c in changes),
        any(c.high < -EQUAL for c in changes),
    )


def level(found: Change) -> Verdict:
    """Held where the interval lies within +-EQUAL, refuted where it lies outside."""
    return word(-EQUAL < found.low and found.high < EQUAL, found.low > EQUAL or found.high < -EQUAL)


def positive(found: Change) -> Verdict:
    """Held where the interval lies above 0, refuted where it does not and leaves room for less than
    EQUAL.
    """
    return word(found.low > 0, found.low <= 0 and found.high < EQUAL)


def signed(found: Change) -> Verdict:
    """Held where the interval lies above 0, refuted where it lies below."""
    return word(found.low > 0, found.high < 0)


def judged(
    text: str,
    rows: list[Row],
    verdict: Callable[[list[Row]], Verdict],
    key: str,
    value: str = "difference",
) -> Claim:
    """A claim that these rows decide, each shown by its `key`; undecided without any."""
    return Claim(text, verdict(rows), said(rows, key, value)) if rows else missing(text)
