"""The page's section of open-loop errors: tables, plots of the errors by step of the chunk, and of
predicted beside recorded actions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from alltrades.report import open_loop as words
from alltrades.report.figures import Figure, axis, row_color, short
from alltrades.report.run_files import RunFiles

Place = Callable[[Figure], dict[str, Any]]
DASHES = ("dash", "dot", "dashdot", "longdash")  # of baselines
LEGEND = {
    "showlegend": True,
    "legend": {"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0},
}


def open_loop(run: RunFiles, place: Place) -> dict[str, Any] | None:
    """By environment, the tables and plots of what was judged on held-out episodes; None where
    nothing was. `place` keeps a figure and says where it goes.
    """
    if not run.open_loop:
        return None
    wanted = (run.settings.get("evaluation") or {}).get("rows") or []
    found = {}
    for name, facts in run.ordered(run.open_loop):
        order = sorted(facts["rows"], key=lambda r: wanted.index(r) if r in wanted else len(wanted))
        found[name] = {**facts, "rows": {row: facts["rows"][row] for row in order}}
    rows = list(dict.fromkeys([*wanted, *(r for facts in found.values() for r in facts["rows"])]))
    parts = [
        {
            "name": name,
            "heading": words.heading(name, facts),
            "steps": words.shown_steps(facts),
            "errors": words.error_lines(facts),
            "best": words.best_line(facts),
            "differences": words.difference_lines(facts),
            "pairs": words.pair_lines(facts),
            "notes": words.left_out_lines(facts),
            "head": words.dimension_heads(facts),
            "dimensions": words.dimensions(facts),
            "by_step": place(by_step(name, facts, rows)),
            "actions": [place(figure) for figure in actions(name, facts, rows)],
        }
        for name, facts in found.items()
    ]
    recorded = [name for name, facts in found.items() if not facts["simulated"]]
    return {"parts": parts, "recorded": recorded, "verdicts": words.verdicts(found)}


def by_step(name: str, facts: Mapping[str, Any], rows: Sequence[str]) -> Figure:
    """Share of the variance at each step of the chunk, of rows and baselines."""
    x = list(range(1, facts["steps"] + 1))
    lines = [
        (n, own, {"color": row_color(rows, n), "width": 2}) for n, own in facts["rows"].items()
    ]
    for dash, (label, own) in zip(DASHES, facts["baselines"].items()):
        lines.append((label, own, {"color": "@ink2", "width": 1.5, "dash": dash}))
    traces = []
    for label, own, line in lines:
        known = [(s, v) for s, v in zip(x, own["steps"]["share"]) if v is not None]
        traces.append(
            {
                "type": "scatter",
                "mode": "lines" if len(known) > 1 else "markers",
                "name": label,
                "x": [s for s, _ in known],
                "y": short([v for _, v in known]),
                "line": line,
                "hovertemplate": "%{y:.3f} at step %{x}",
            }
        )
    layout = {
        "xaxis": axis("step of the chunk"),
        "yaxis": axis("share of the variance", rangemode="tozero"),
    }
    return Figure(f"{name}: error by step of the chunk", traces, layout | LEGEND, 320)


def actions(name: str, facts: Mapping[str, Any], rows: Sequence[str]) -> list[Figure]:
    """Recorded actions of one held-out episode, and chunks that were predicted along it, by
    dimension.
    """
    shown, figures = facts["shown"], []
    for k, d in enumerate(shown["dimensions"]):
        recorded = [step[k] for step in shown["recorded"]]
        traces: list[dict[str, Any]] = [
            {
                "type": "scatter",
                "mode": "lines",
                "name": "recorded",
                "x": list(range(len(recorded))),
                "y": short(recorded),
                "line": {"color": "@ink", "width": 2},
                "hovertemplate": "%{y:.4~g} at step %{x}",
            }
        ]
        for row, chunks in sorted(shown["chunks"].items(), key=lambda item: rows.index(item[0])):
            x: list[int | None] = []
            y: list[float | None] = []
            for at, chunk in zip(shown["at"], chunks):
                x += [*range(at, at + len(chunk)), None]  # a gap between chunks
                y += [*short([step[k] for step in chunk]), None]
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "name": row,
                    "x": x,
                    "y": y,
                    "line": {"color": row_color(rows, row), "width": 1.5},
                    "hovertemplate": "%{y:.4~g} at step %{x}",
                }
            )
        unit = facts["units"][d]
        title = f"{facts['names'][d]} ({unit})" if unit else f"action {facts['names'][d]}"
        layout = {"xaxis": axis("step of the episode"), "yaxis": axis(title)}
        label = f"{name}: predicted and recorded {title}"
        figures.append(Figure(label, traces, layout | LEGEND, 300))
    return figures
