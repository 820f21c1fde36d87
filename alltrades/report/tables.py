"""The result in a terminal: success and other metrics by environment and row, paired differences,
advice.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

from alltrades.envs.rollouts.differences import over_seeds
from alltrades.envs.rollouts.evaluation import agreed, measures
from alltrades.report import text
from alltrades.report.columns import columns

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType

    from alltrades.envs.rollouts.evaluation import Evaluation

PAIRED = "paired differences on common starts, 95 % interval over starts"
ONE_SEED = ", one training seed"
COLOR = {
    "BETTER": "green",
    "WORSE": "red",
    "SAME": "default",
    "UNDERPOWERED": "yellow",
    "SEEDS DISAGREE": "yellow",
}
SIGNAL = "* trained with the simulator's success signal"


@dataclass(frozen=True)
class Line:
    """One line of a table: cells are (mean, 95 % interval) of each row, None where it was not
    measured.
    """

    label: str
    n: str
    cells: tuple[tuple[str, str] | None, ...]
    total: bool = False


def table_lines(
    evaluations: Mapping[str, Evaluation], limits: Sequence[int] = (), metric: str = "success"
) -> list[Line]:
    """Environments in the order of the first row that has them, the mean last, then the mean within
    shorter limits. All of them have the metric (see `parts`).

    n is said once where it is the same in every row, else in the cells.
    """
    rows = list(evaluations.values())
    names = list(dict.fromkeys(r.environment for e in rows for r in e.rows))
    found = [{r.environment: r for r in e.rows} for e in rows]
    lines = []
    for name in names:
        counts = {r[name].n for r in found if name in r}
        estimates = [(r[name].n, *r[name].estimate(metric)) if name in r else None for r in found]
        cells = tuple(
            (text.rate(x[1]) + (f" n={x[0]}" if len(counts) > 1 else ""), text.interval(x[2]))
            if x is not None
            else None
            for x in estimates
        )
        lines.append(Line(name, str(counts.pop()) if len(counts) == 1 else "", cells))
    total = {sum(r.n for r in e.rows) for e in rows}
    for at in (None, *(limits if metric == "success" else ())):
        means = [e.mean(at, metric) if e.rows else None for e in rows]
        lines.append(
            Line(
                f"mean of {len(names)}" if at is None else f"mean within {at} steps",
                str(max(total)) if at is None and len(total) == 1 else "",
                tuple(m and (text.rate(m[0], 3), text.interval(m[1], 3)) for m in means),
                total=True,
            )
        )
    return lines


def parts(evaluations: Mapping[str, Evaluation]) -> Iterator[tuple[str, dict[str, Evaluation]]]:
    """What is shown of rows, each metric with the environments that are judged by it."""
    same = agreed(evaluations)
    for metric, names in measures(same.values()).items():
        yield metric, {row: e.only(names) for row, e in same.items()}


def signal_line(evaluations: Mapping[str, Evaluation]) -> str | None:
    """Which rows used the simulator's success signal, and for what; None where none did."""
    used = [f"{n} ({', '.join(e.success_uses)})" for n, e in evaluations.items() if e.success_uses]
    return f"{SIGNAL}: {'; '.join(used)}" if used else None


def difference_lines(comparison: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """(pair, difference and interval, verdict, environments) of every pair."""
    out = []
    for pair in comparison.get("pairs", ()):
        better, worse, n = text.tally(pair)
        where = f"better in {better}, worse in {worse} of {n} environments" if n > 1 else ""
        if pair.get("seed_interval"):
            seeds = " ".join(text.signed(x) for x in pair["seeds"])
            where += ("; " if where else "") + (
                f"over seeds {text.signed_interval(pair['seed_interval'])}: {seeds}"
            )
        out.append(
            (
                f"{pair['a']} - {pair['b']}{text.metric(pair)}",
                f"{text.signed(pair['mean'])} {text.signed_interval(pair['interval'])}",
                pair["verdict"],
                where,
            )
        )
    return out


def row_names(evaluations: Mapping[str, Evaluation]) -> list[str]:
    """Row names, with a star where the row used the simulator's success signal."""
    return [name + ("*" if e.used_success_signal else "") for name, e in evaluations.items()]


def plain_text(
    evaluations: Mapping[str, Evaluation],
    comparison: Mapping[str, Any],
    advice: Mapping[str, Mapping[str, Any]] | None = None,
    limits: Sequence[int] = (),
) -> str:
    """The result in aligned columns of plain ASCII; three rows stay below 110 columns."""
    blocks, signal = [], signal_line(evaluations)
    for metric, own in parts(evaluations):
        lines = table_lines(own, limits, metric)
        cells = [[f"{c[0]} {c[1]}" if c else "-" for c in line.cells] for line in lines]
        block = columns(
            [
                [f"{metric}, 95 % interval", "n", *row_names(evaluations)],
                *([line.label, line.n, *shown] for line, shown in zip(lines, cells)),
            ],
            right=(1,),
        )
        first = 1 + next(i for i, line in enumerate(lines) if line.total)
        block.insert(first, "-" * max(len(x) for x in block))
        blocks.append(block + ([signal] if signal else []))
    if found := text.faults({name: [e] for name, e in evaluations.items()}):
        blocks.append(found)
    if differences := difference_lines(comparison):
        blocks.append(
            [
                PAIRED if len(comparison["pairs"][0].get("seeds", ())) > 1 else PAIRED + ONE_SEED,
                *columns([list(x) for x in differences]),
            ]
        )
    if teachers := comparison.get("teachers"):
        blocks.append([text.kept(teachers)])
    if advice:
        blocks.append(
            ["advice", *columns([[name, facts["line"]] for name, facts in advice.items()])]
        )
    return "\n\n".join("\n".join(block) for block in blocks)


def over_seeds_text(
    rows: Mapping[str, Sequence[Evaluation]],
    at: int | None = None,
    metric: str = "success",
    letters: Mapping[str, str] | None = None,
) -> str:
    """Rows of several runs in aligned columns: means by environment, over all with its interval,
    of each run and, where given, the compact letters of each row (see `verdicts.letters`).
    """
    found = {name: over_seeds(each, at, metric) for name, each in rows.items()}
    evaluations = next(iter(rows.values()))
    runs, n = len(evaluations), sum(r.n for r in evaluations[0].rows)
    title = (
        f"{metric}{f' within {at} steps' if at is not None else ''}, "
        f"{f'{runs} runs of ' if runs > 1 else ''}{n} episodes"
    )
    stars = ["*" if any(e.used_success_signal for e in each) else "" for each in rows.values()]
    environments = next(iter(found.values())).environments
    block = columns(
        [
            [title, *(name + star for name, star in zip(found, stars))],
            *([e, *(text.rate(r.environments[e]) for r in found.values())] for e in environments),
            [
                f"mean of {len(environments)}",
                *(f"{text.rate(r.mean, 3)} {text.interval(r.interval, 3)}" for r in found.values()),
            ],
            *(
                [
                    [
                        "of each run",
                        *(" / ".join(text.rate(x, 3) for x in r.seeds) for r in found.values()),
                    ]
                ]
                if runs > 1
                else []
            ),
            *(
                [["share a letter: not told apart", *(letters[name] for name in rows)]]
                if letters
                else []
            ),
        ]
    )
    block.insert(1 + len(environments), "-" * max(len(x) for x in block))
    signal = signal_line({name: each[0] for name, each in rows.items()})
    return "\n".join(block + ([signal] if signal else []) + text.faults(rows))


def terminal_table(
    evaluations: Mapping[str, Evaluation],
    comparison: Mapping[str, Any],
    advice: Mapping[str, Mapping[str, Any]] | None = None,
    limits: Sequence[int] = (),
) -> RenderableType:
    """The same for a terminal, by rich; intervals go below the rates where the terminal is
    narrow.
    """
    return _View(evaluations, comparison, advice or {}, limits)


def show_result(
    evaluations: Mapping[str, Evaluation],
    comparison: Mapping[str, Any],
    advice: Mapping[str, Mapping[str, Any]] | None = None,
    limits: Sequence[int] = (),
    file: TextIO | None = None,
) -> None:
    """Print the result: colours and rules on a terminal, aligned plain text elsewhere."""
    stream = file or sys.stdout
    if not stream.isatty():
        print(plain_text(evaluations, comparison, advice, limits), file=stream)
        return
    from rich.console import Console

    Console(file=stream, highlight=False).print(
        terminal_table(evaluations, comparison, advice, limits)
    )


class _View:
    def __init__(
        self,
        evaluations: Mapping[str, Evaluation],
        comparison: Mapping[str, Any],
        advice: Mapping[str, Mapping[str, Any]],
        limits: Sequence[int],
    ) -> None:
        self.evaluations, self.comparison, self.advice, self.limits = (
            evaluations,
            comparison,
            advice,
            limits,
        )

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        from rich.text import Text

        signal = signal_line(self.evaluations)
        for metric, own in parts(self.evaluations):
            yield self._measured(own, metric, options.max_width)
            if signal:
                yield Text(signal, style="dim")
        for fault in text.faults({name: [e] for name, e in self.evaluations.items()}):
            yield Text(fault, style="yellow")
        if differences := difference_lines(self.comparison):
            table = _table("paired differences on common starts, 95 % interval")
            for pair, difference, word, where in differences:
                table.add_row(
                    Text(pair),
                    Text(difference),
                    Text(word, style=f"bold {COLOR.get(word, 'default')}"),
                    Text(where, style="dim"),
                )
            yield table
        if teachers := self.comparison.get("teachers"):
            yield Text(text.kept(teachers) + "\n")
        if self.advice:
            table = _table("advice")
            for name, facts in self.advice.items():
                table.add_row(Text(name), Text(facts["line"]))
            yield table

    def _measured(
        self, evaluations: Mapping[str, Evaluation], metric: str, width: int
    ) -> RenderableType:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        lines, names = (
            table_lines(evaluations, self.limits, metric),
            row_names(evaluations),
        )
        wide = (
            max(len(x.label) for x in lines)
            + 2
            + max(len(x.n) for x in lines)
            + sum(
                2 + max(len(name), *(len(" ".join(c)) for x in lines if (c := x.cells[i])))
                for i, name in enumerate(names)
            )
        )
        table = Table(
            box=box.SIMPLE_HEAD,
            title=f"{metric}, 95 % interval",
            title_justify="left",
            title_style="bold",
            padding=(0, 1, 0, 0),
            pad_edge=False,
            show_edge=False,
        )
        table.add_column("environment", overflow="fold")
        table.add_column("n", justify="right", style="dim", no_wrap=True)
        least = [
            max(len(part) for x in lines for part in x.cells[i] or ("",)) for i in range(len(names))
        ]
        fits = (
            sum(least) + 2 * len(least) + 20 <= width
        )  # else numbers fold too: better than cut off
        for name, own in zip(names, least):
            table.add_column(name, overflow="fold", min_width=own if fits else None)
        for i, line in enumerate(lines):
            cells = [
                Text.assemble((c[0], "bold"), " " if wide <= width else "\n", (c[1], "dim"))
                if c
                else Text("-", "dim")
                for c in line.cells
            ]
            table.add_row(
                Text(line.label, "bold" if line.total else ""),
                line.n,
                *cells,
                end_section=not line.total and i + 1 < len(lines) and lines[i + 1].total,
            )
        return table


def _table(title: str) -> Any:
    from rich.table import Table

    return Table(
        box=None,
        show_header=False,
        title=f"\n{title}",
        title_justify="left",
        title_style="bold",
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
