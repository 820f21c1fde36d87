"""Open-loop errors as text, for a terminal and the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alltrades.report import text
from alltrades.report.columns import columns

TITLE = (
    "open loop on held-out episodes: squared error of predicted chunks over the variance of the "
    "actions\nthat were learned from, 95 % interval over episodes; the last two columns need no "
    "learning"
)
DIMENSIONS = 16  # of an environment that the terminal shows


def open_loop_text(found: Mapping[str, Any]) -> str:
    """Errors by environment and row in aligned columns, then each dimension's in its units."""
    names = list(dict.fromkeys(name for facts in found.values() for name in _all(facts)))
    table = [["environment", "episodes", *names]]
    for environment, facts in found.items():
        own = _all(facts)
        table.append([environment, str(facts["episodes"]), *(_cell(own.get(n)) for n in names)])
    blocks = ["\n".join([TITLE, *columns(table, right=(1,))])]
    for environment, facts in found.items():
        own, rows = _all(facts), dimensions(facts)
        more = len(rows) - DIMENSIONS
        table = [["dimension", "deviation", *own], *rows[:DIMENSIONS]]
        numbers = tuple(range(1, 2 + len(own)))
        title = f"{environment}: root mean squared error of each action, in its units"
        rest = [f"and {more} more, in open_loop.json"] if more > 0 else []
        blocks.append("\n".join([title, *columns(table, right=numbers), *rest]))
    return "\n\n".join([*blocks, *(["\n".join(lines)] if (lines := verdicts(found)) else [])])


def verdicts(found: Mapping[str, Any]) -> list[str]:
    """Lines for the policies that are no better than the best trivial baseline, or not shown to be,
    and for every environment too few of whose episodes were held out to say.
    """
    lines = []
    for name, facts in found.items():
        best = facts["best_baseline"]
        rows, trivial = facts["rows"], f"'{best}' ({facts['baselines'][best]['share']:.2f})"
        doubtful = {row: own for row, own in rows.items() if not own["better"]}
        for words, lower in (("no better than", False), ("not told apart from", True)):
            said = [
                f"{row} {own['share']:.2f}"
                for row, own in doubtful.items()
                if (own["difference"] < 0) == lower
            ]
            if said:
                lines.append(f"{name}: {words} {trivial}: {', '.join(said)}")
        if facts["episodes"] < 2:
            lines.append(f"{name}: {facts['episodes']} episode is held out, too few for intervals")
    return lines


def dimensions(facts: Mapping[str, Any]) -> list[list[str]]:
    """Name, deviation in what was learned from, and error of every row and baseline, by action."""
    own = _all(facts)
    lines = []
    for d, (name, unit, std) in enumerate(zip(facts["names"], facts["units"], facts["std"])):
        label = f"{name} ({unit})" if unit else name
        still = "still" if std == 0 else f"{std:.3g}"
        lines.append([label, still, *(f"{x['rmse'][d]:.3g}" for x in own.values())])
    return lines


def _all(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {**facts["rows"], **facts["baselines"]}


def _cell(own: Mapping[str, Any] | None) -> str:
    return "-" if own is None else f"{text.rate(own['share'])} {text.interval(own['interval'])}"
