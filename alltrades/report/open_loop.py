"""Open-loop errors as text, for a terminal and the page."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from alltrades.report import text
from alltrades.report.columns import columns

TITLE = (
    "open loop on held-out episodes: squared error of predicted chunks over the variance of the\n"
    "other episodes' actions, 95 % intervals over episodes; 0 is what the operator did, about 1\n"
    "the mean action"
)
DIMENSIONS = 16  # of an environment that the terminal shows
WHOLE = 6  # environments up to which each has a table
STEPS = 6  # of the chunk that a table shows
PAIRS = 6  # paired differences of rows
WIDTH = 100  # of a line
MEAN_OF = "mean of 16"
VERDICTS = ("better", "not told apart", "worse")


def open_loop_text(found: Mapping[str, Any], whole: str) -> str:
    """Errors by environment, row and step of the chunk, then of each dimension in its units, then
    warnings. `whole` says where all of it is.
    """
    if not found:
        return "open loop: no environment has held-out episodes"
    blocks = [TITLE]
    if len(found) > WHOLE:
        blocks.append(_overview(found))
    for name, facts in found.items() if len(found) <= WHOLE else ():
        blocks += [_errors(name, facts), _differences(facts), _dimensions(name, facts)]
    lines = [*verdicts(found), f"every step, dimension and interval: {whole}"]
    wrapped = [textwrap.fill(line, WIDTH, subsequent_indent="  ") for line in lines]
    return "\n\n".join([*blocks, "\n".join(wrapped)])


def heading(name: str, facts: Mapping[str, Any]) -> str:
    """Which environment, whether it has a simulator, and what its figures are of."""
    kind = "with a simulator: success is told apart from this" if facts["simulated"] else ""
    others = (
        "learned from"
        if facts.get("unseen", True)
        else "others; which it learned from is not known"
    )
    return (
        f"{name} ({kind or 'no simulator: nothing else is known'}): {facts['episodes']} "
        f"{'episode' if facts['episodes'] == 1 else 'episodes'} held out, {facts['learned']} "
        f"{others}; {facts['states']} states, {facts['averaged_states']} of them for the "
        f"{MEAN_OF} chunks"
    )


def shown_steps(facts: Mapping[str, Any]) -> list[int]:
    """Steps of the chunk, from 1, that a table shows."""
    steps = np.geomspace(1, facts["steps"], min(STEPS, facts["steps"])).round().astype(int)
    return sorted(set(steps.tolist()))


def error_lines(facts: Mapping[str, Any]) -> list[list[str]]:
    """Name, share, interval, and share at some steps of the chunk, of rows, the mean of their
    chunks, and baselines.
    """
    lines = []
    for label, own in _every(facts):
        each = own["steps"]["share"]
        steps = [number(each[s - 1]) for s in shown_steps(facts)]
        lines.append([label, number(own["share"]), ends(own["interval"]), *steps])
    return lines


def difference_lines(facts: Mapping[str, Any]) -> list[list[str]]:
    """Name, paired difference from the best baseline, interval, and at which steps of the chunk a
    row is better than the best baseline there; then paired differences of rows.
    """
    lines = []
    for label, own in _every(facts):
        if "against" in own:
            bounds = own["difference_interval"]
            found = [label, text.signed(own["difference"]), signed_ends(bounds)]
            lines.append([*found, steps_line(own)])
    return lines


def pair_lines(facts: Mapping[str, Any]) -> list[list[str]]:
    """Paired differences of the last row from the others, with intervals and verdicts."""
    last = list(facts["rows"])[-1]
    return [
        [
            f"{p['a']} - {p['b']}",
            text.signed(p["difference"]),
            signed_ends(p["interval"]),
            p["verdict"],
        ]
        for p in facts["pairs"]
        if p["a"] == last
    ]


def steps_line(own: Mapping[str, Any]) -> str:
    """ "better at 1-12, not told apart at 13-16"."""
    found: dict[str, list[int]] = {word: [] for word in VERDICTS}
    for number, step in enumerate(own["best_steps"], 1):
        if step is not None:
            found[step["verdict"]].append(number)
    return ", ".join(f"{word} at {_runs(steps)}" for word, steps in found.items() if steps)


def best_line(facts: Mapping[str, Any]) -> str:
    """The best baseline over all steps, and which is the best at which steps."""
    found: dict[str, list[int]] = {}
    for number, name in enumerate(facts["best_steps"], 1):
        if name is not None:
            found.setdefault(name, []).append(number)
    each = ", ".join(f"'{name}' at {_runs(steps)}" for name, steps in found.items())
    return f"the best baseline is '{facts['best_baseline']}'; at each step of the chunk: {each}"


def left_out_lines(facts: Mapping[str, Any]) -> list[str]:
    """Baselines that an environment has not, and how many steps the nearest was looked for in."""
    lines = [f"without '{name}': {why}" for name, why in facts["left_out"].items()]
    if 0 < facts["searched"] < facts["of_steps"]:
        searched = f"{facts['searched']:,} of {facts['of_steps']:,}"
        lines.append(f"the nearest neighbour is looked for among {searched} steps, evenly spread")
    if facts["episodes"] < facts["of_episodes"]:
        episodes = f"{facts['episodes']} of {facts['of_episodes']}"
        lines.append(f"judged on {episodes} held-out episodes, evenly spread")
    return lines


def verdicts(found: Mapping[str, Any]) -> list[str]:
    """Lines for the policies that are no better than the best trivial baseline, or not shown to be,
    and for every environment too few of whose episodes were held out to say.
    """
    lines = []
    for name, facts in found.items():
        best = facts["best_baseline"]
        rows, trivial = facts["rows"], f"'{best}' ({number(facts['baselines'][best]['share'])})"
        doubtful = {row: own for row, own in rows.items() if not own["better"]}
        for words, lower in (("no better than", False), ("not told apart from", True)):
            said = [
                f"{row} {number(own['share'])}"
                + (f" (its {MEAN_OF} chunks is better)" if own["mean"]["better"] else "")
                for row, own in doubtful.items()
                if (own["difference"] < 0) == lower
            ]
            if said:
                lines.append(f"warning: {name}: {words} {trivial}: {', '.join(said)}")
        if facts["episodes"] < 2:
            lines.append(f"{name}: {facts['episodes']} episode is held out, too few for intervals")
    return lines


def dimensions(facts: Mapping[str, Any]) -> list[list[str]]:
    """Name, deviation in what was learned from, and error with its interval of every row and of the
    best baseline, by action, in its units.
    """
    own = _compared(facts)
    lines = []
    for d, (name, unit, std) in enumerate(zip(facts["names"], facts["units"], facts["std"])):
        label = f"{name} ({unit})" if unit else name
        still = "still" if std == 0 else f"{std:.3g}"
        cells = []
        for x in (x["dimensions"] for x in own.values()):
            bounds = x["rmse_interval"][d]
            between = "" if bounds is None else f" [{bounds[0]:.3g}, {bounds[1]:.3g}]"
            cells.append(f"{x['rmse'][d]:.3g}{between}")
        lines.append([label, still, *cells])
    return lines


def dimension_heads(facts: Mapping[str, Any]) -> list[str]:
    """Heads of the columns of `dimensions`."""
    return ["dimension", "deviation", *_compared(facts)]


def number(value: float | None) -> str:
    """A share; a dash for None."""
    if value is None:
        return "-"
    return f"{value:.3f}" if value < 10 else f"{value:.3g}"


def ends(bounds: Sequence[float] | None) -> str:
    """ "[0.210, 0.250]"."""
    return "" if bounds is None else f"[{number(bounds[0])}, {number(bounds[1])}]"


def signed_ends(bounds: Sequence[float] | None) -> str:
    """ "[-0.210, +0.250]"."""
    return "" if bounds is None else text.signed_interval(bounds)


def _every(facts: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Rows, each with the mean of its chunks, and baselines, by what they are called in a table."""
    out: list[tuple[str, Mapping[str, Any]]] = []
    for name, own in facts["rows"].items():
        out += [(name, own), (f"  {MEAN_OF}", own["mean"])]
    return [*out, *facts["baselines"].items()]


def _compared(facts: Mapping[str, Any]) -> dict[str, Any]:
    best = facts["best_baseline"]
    return {**facts["rows"], best: facts["baselines"][best]}


def _errors(name: str, facts: Mapping[str, Any]) -> str:
    first, *more = shown_steps(facts)
    head = ["", "share", "", f"step {first}", *map(str, more)]
    numbers = (1, *range(3, len(head)))
    lines = columns([head, *error_lines(facts)], right=numbers)
    return "\n".join([*_filled(heading(name, facts)), *lines, *left_out_lines(facts)])


def _differences(facts: Mapping[str, Any]) -> str:
    head = ["minus the best", "", "", "beside the best baseline at each step of the chunk"]
    lines = columns([head, *difference_lines(facts)], right=(1,))
    pairs = pair_lines(facts)
    more = columns([["paired over episodes", "", "", ""], *pairs[:PAIRS]], right=(1,))
    return "\n".join([*_filled(best_line(facts)), *lines, *(more if pairs else [])])


def _dimensions(name: str, facts: Mapping[str, Any]) -> str:
    rows = dimensions(facts)
    more = len(rows) - DIMENSIONS
    table = [dimension_heads(facts), *rows[:DIMENSIONS]]
    title = f"{name}: root mean squared error of each action, in its units"
    rest = [f"and {more} more dimensions"] if more > 0 else []
    return "\n".join([title, *_within(table, 2, (1,)), *rest])


def _overview(found: Mapping[str, Any]) -> str:
    """A line for every environment; stars mark rows that are better than the best baseline."""
    rows = list(dict.fromkeys(row for facts in found.values() for row in facts["rows"]))
    table = [["environment", "episodes", "simulator", "best baseline", "share", *rows]]
    for name, facts in found.items():
        best, own = facts["best_baseline"], facts["rows"]
        shares = [
            number(own[r]["share"]) + (" *" if own[r]["better"] else "  ") if r in own else "-"
            for r in rows
        ]
        simulator = "yes" if facts["simulated"] else "no"
        trivial = [best, number(facts["baselines"][best]["share"])]
        table.append([name, str(facts["episodes"]), simulator, *trivial, *shares])
    return "\n".join([*_within(table, 5, (1, 4)), "* better than the best baseline"])


def _within(table: Sequence[Sequence[str]], fixed: int, right: Collection[int]) -> list[str]:
    """Aligned lines of at most `WIDTH` characters: where a table is wider, its further columns come
    below, each time behind the first `fixed`.
    """
    widths = [max(map(len, column)) + 2 for column in zip(*table, strict=True)]
    groups: list[list[int]] = [[]]
    for k in range(fixed, len(widths)):
        taken = sum(widths[:fixed]) + sum(widths[i] for i in groups[-1])
        if groups[-1] and taken + widths[k] > WIDTH + 2:
            groups.append([])
        groups[-1].append(k)
    lines: list[str] = []
    for group in groups:
        places = [*range(fixed), *group]
        lines += columns([[row[k] for k in places] for row in table], right=right)
    return lines


def _runs(steps: Sequence[int]) -> str:
    """ "1-4, 7"."""
    out = []
    for _, run in groupby(enumerate(steps), key=lambda item: item[1] - item[0]):
        own = [step for _, step in run]
        out.append(f"{own[0]}" if len(own) == 1 else f"{own[0]}-{own[-1]}")
    return ", ".join(out)


def _filled(line: str) -> list[str]:
    return textwrap.wrap(line, WIDTH, subsequent_indent="  ")
