"""Plots that studies share: means with intervals against a number or a name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from alltrades.report.figures import ROW_COLORS, Figure

Point = tuple[Any, float, float, float]  # number or name on the x axis, mean, low, high


def intervals_plot(
    label: str,
    series: Mapping[str, Sequence[Point]],
    x_title: str,
    y_title: str,
    log_x: bool = False,
    log_y: bool = False,
    range_y: tuple[float, float] | None = None,
) -> Figure:
    """Mean and 95 % interval of every series, side by side; lines where x is a number."""
    numeric = all(
        isinstance(p[0], int | float) and not isinstance(p[0], bool)
        for points in series.values()
        for p in points
    )
    names = list(dict.fromkeys(p[0] for points in series.values() for p in points))
    traces = []
    for i, (name, points) in enumerate(series.items()):
        shift = 0.0 if numeric else 0.7 * ((i + 0.5) / len(series) - 0.5)
        x = [p[0] if numeric else names.index(p[0]) + shift for p in points]
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers" if numeric else "markers",
                "name": name,
                "x": x,
                "y": [_round(p[1]) for p in points],
                "marker": {"size": 7, "color": f"@row{i % ROW_COLORS}"},
                "line": {"color": f"@row{i % ROW_COLORS}", "width": 2},
                "error_y": {
                    "type": "data",
                    "symmetric": False,
                    "array": [_round(p[3] - p[1]) for p in points],
                    "arrayminus": [_round(p[1] - p[2]) for p in points],
                    "thickness": 1.5,
                    "width": 0,
                    "color": f"@row{i % ROW_COLORS}",
                },
                "text": [f"{name}, {p[0]}: {p[1]:.3g} [{p[2]:.3g}, {p[3]:.3g}]" for p in points],
                "hovertemplate": "%{text}",
            }
        )
    common = {
        "gridcolor": "@grid",
        "linecolor": "@line",
        "zeroline": False,
        "automargin": True,
        "fixedrange": True,
    }
    x_axis: dict[str, Any] = {"title": {"text": x_title, "standoff": 8}, **common}
    if not numeric:
        x_axis |= {
            "tickvals": list(range(len(names))),
            "ticktext": [str(n) for n in names],
            "range": [-0.5, len(names) - 0.5],
        }
    elif log_x:
        x_axis |= {"type": "log", "tickvals": names, "ticktext": [f"{n:g}" for n in names]}
    y_axis = {"title": {"text": y_title, "standoff": 8}, **common}
    y_axis |= {"type": "log", "tickformat": "~g"} if log_y else {}
    y_axis |= {"range": list(range_y)} if range_y is not None else {}
    return Figure(
        label,
        traces,
        {
            "xaxis": x_axis,
            "yaxis": y_axis,
            "showlegend": True,
            "legend": {"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0},
        },
        380,
    )


def _round(value: float) -> float:
    return float(f"{value:.4g}")
