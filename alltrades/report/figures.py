"""The page's plots as Plotly JSON.

Colours are written as "@name" or "@name/opacity": `page.js` puts in the value of the style sheet's
variable --name when it draws, so that one figure serves light and dark.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from alltrades.envs.rollouts.evaluation import RETURN, Evaluation
from alltrades.envs.rollouts.verdicts import EQUAL, verdict
from alltrades.report import text
from alltrades.settings.rows import SPECIALISTS
from alltrades.system.files import unslug

ROW_COLORS = 8  # --row0 ... --row7 in page.css
MOST_POINTS = 400  # of a curve
MOST_EPISODES = 10  # of a row in a trajectory plot
MOST_NAMED = 8  # curves in a legend
VERDICT_COLOR = {
    "BETTER": "@good",
    "WORSE": "@bad",
    "SAME": "@ink2",
    "UNDERPOWERED": "@warn",
    "SEEDS DISAGREE": "@warn",
}


@dataclass(frozen=True)
class Figure:
    """A plot: `traces` and `layout` as Plotly has them, `height` in pixels, `label` for who cannot
    see it.
    """

    label: str
    traces: list[dict[str, Any]]
    layout: dict[str, Any] = field(default_factory=dict)
    height: int = 320
    static: bool = False

    def to_json(self) -> dict[str, Any]:
        base: dict[str, Any] = {
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "autosize": True,
            "height": self.height,
            "font": {"family": "system-ui, sans-serif", "size": 12, "color": "@ink2"},
            "showlegend": False,
            "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
            "dragmode": False,
            "hovermode": "closest",
            "hoverlabel": {
                "bgcolor": "@surface",
                "bordercolor": "@line",
                "font": {"color": "@ink"},
                "namelength": -1,
            },
        }
        return {"data": self.traces, "layout": base | self.layout, "static": self.static}


def axis(title: str = "", **more: Any) -> dict[str, Any]:
    """Of a plot, in the page's look."""
    return {
        "title": {"text": title, "standoff": 8},
        "gridcolor": "@grid",
        "linecolor": "@line",
        "zeroline": False,
        "automargin": True,
        "fixedrange": True,
    } | more


def row_color(rows: Sequence[str], row: str) -> str:
    """A row has one colour on the whole page."""
    return f"@row{rows.index(row) % ROW_COLORS}"


def success_by_limit(evaluations: Mapping[str, Evaluation]) -> Figure:
    """Mean success of every row against the time limit, in steps, or in shares of the limit where
    limits differ.
    """
    limits = {r.max_steps for e in evaluations.values() for r in e.rows}
    common = limits.pop() if len(limits) == 1 else None
    x = np.linspace(0, 1, 101)
    traces = []
    for name, evaluation in evaluations.items():
        # success within floor(x * limit) steps, mean over environments
        y = np.mean(
            [[np.mean(r.success(math.floor(v * r.max_steps))) for v in x] for r in evaluation.rows],
            axis=0,
        )
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": name,
                "x": short(x * (common or 100)),
                "y": short(y),
                "line": {"color": row_color(list(evaluations), name), "width": 2, "shape": "hv"},
                "hovertemplate": "%{y:.2f} within %{x:.0f}"
                + (" steps" if common else " % of the limit"),
            }
        )
    title = "steps" if common else "% of the environment's time limit"
    return Figure(
        "Mean success of every row against the time limit",
        traces,
        {
            "xaxis": axis(title),
            "yaxis": axis("success", range=[0, 1.02]),
            "hovermode": "x unified",
            "margin": {"l": 8, "r": 12, "t": 8, "b": 8},
        },
        300,
    )


def forest(pair: Mapping[str, Any]) -> Figure:
    """Paired differences of one pair in one metric: the mean first, then every environment, each
    with its 95 % interval.
    """
    each = pair["per_environment"]
    lines = [
        (
            f"<b>mean of {len(each)}</b>" if each else "<b>mean</b>",
            pair["mean"],
            pair["interval"],
            pair["verdict"],
        ),
        *(
            (
                html.escape(name),
                v["mean"],
                v["interval"],
                v.get("verdict") or verdict(tuple(v["interval"])),
            )
            for name, v in each.items()
        ),
    ]
    reach = max(0.1, *(abs(b) for _, _, bounds, _ in lines for b in bounds)) * 1.08
    traces, notes = [], []
    for i, (name, mean, (low, high), word) in enumerate(lines):
        # a neutral colour for intervals that hold 0: colour means a finding
        color = VERDICT_COLOR[word] if word in ("BETTER", "WORSE") else "@ink2"
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": [mean],
                "y": [-i],
                "name": "",
                "marker": {
                    "color": color,
                    "size": 11 if i == 0 else 8,
                    "symbol": "diamond" if i == 0 else "circle",
                },
                "error_x": {
                    "type": "data",
                    "symmetric": False,
                    "array": [high - mean],
                    "arrayminus": [mean - low],
                    "color": color,
                    "thickness": 3 if i == 0 else 2,
                    "width": 0,
                },
                "hovertemplate": f"{name}: {text.signed(mean)} {text.signed_interval((low, high))} "
                f"{word}",
            }
        )
        for anchor, content in (("left", name), ("right", text.signed(mean, 2))):
            notes.append(
                {
                    "xref": "paper",
                    "x": 0 if anchor == "left" else 1,
                    "xanchor": anchor,
                    "y": -i,
                    "yshift": 12,
                    "text": content,
                    "showarrow": False,
                    "font": {"size": 11, "color": "@ink" if i == 0 else "@ink2"},
                }
            )
    band = {
        "type": "rect",
        "xref": "x",
        "yref": "paper",
        "x0": -EQUAL,
        "x1": EQUAL,
        "y0": 0,
        "y1": 1,
        "layer": "below",
        "fillcolor": "@ink2/0.10",
        "line": {"width": 0},
    }
    shapes = [] if pair.get("metric") == RETURN else [band]  # returns have units of their own
    layout = {
        "xaxis": axis(
            f"difference in {pair.get('metric', 'success')}",
            range=[-reach, reach],
            nticks=7,
            zeroline=True,
            zerolinecolor="@ink2",
            zerolinewidth=1,
        ),
        "yaxis": axis(range=[0.45 - len(lines), 0.75], visible=False),
        "annotations": notes,
        "shapes": shapes,
    }
    label = f"Paired differences {pair['a']} minus {pair['b']}{text.metric(pair)} by environment"
    return Figure(label, traces, layout, 64 + 38 * len(lines))


def loss_curves(
    metrics: Mapping[str, Sequence[Mapping[str, Any]]], rows: Sequence[str]
) -> list[tuple[str, Figure]]:
    """(title, figure) of the multi-task policies, then of every kind of specialist."""
    groups: dict[str, list[str]] = {}
    for stage in metrics:
        kind, _, _ = stage.rpartition("/")
        groups.setdefault(kind if kind.startswith("specialist") else "policies", []).append(stage)
    titles = {
        "policies": "Multi-task policies",
        "specialist/scratch": "Specialists, from scratch",
        "specialist/joint_init": "Specialists, from the labeled-only policy",
    }
    row_of = {f"specialist/{kind}": row for kind, row in SPECIALISTS.items()}
    out = []
    for kind in sorted(
        groups, key=lambda k: (list(titles).index(k) if k in titles else len(titles), k)
    ):
        traces: list[dict[str, Any]] = []
        for stage in groups[kind]:
            points = [
                (p["step"], p["loss"])
                for p in metrics[stage]
                if isinstance(p.get("loss"), int | float)
            ]
            if not points:
                continue
            points = points[::-1][:: math.ceil(len(points) / MOST_POINTS)][::-1]  # keeps the last
            row, alone = row_of.get(kind, stage.rpartition("/")[2]), kind == "policies"
            traces.append(
                {
                    "type": "scatter",
                    "name": unslug(stage.rpartition("/")[2]),
                    "mode": "lines" if len(points) > 2 else "lines+markers",
                    "x": [s for s, _ in points],
                    "y": short([v for _, v in points]),
                    "line": {
                        "color": (row_color(rows, row) if row in rows else "@ink2")
                        + ("" if alone else "/0.55"),
                        "width": 2 if alone else 1.2,
                    },
                    "hovertemplate": "step %{x}: %{y:.4~g}",
                }
            )
        if not traces:
            continue
        values = [v for t in traces for v in t["y"]]
        scale: dict[str, Any] = {"nticks": 6}
        if min(values) > 0:  # labels at 1, 2, 5, or at powers of ten where there are many
            scale = {"type": "log", "dtick": "D2" if max(values) < 100 * min(values) else 1}
        layout: dict[str, Any] = {
            "xaxis": axis("step", rangemode="tozero"),
            "yaxis": axis("loss", tickformat="~g", **scale),
        }
        if kind == "policies" and 1 < len(traces) <= MOST_NAMED:
            layout |= {
                "showlegend": True,
                "legend": {"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0},
            }
        out.append(
            (
                titles.get(kind, kind),
                Figure(f"Training loss, {titles.get(kind, kind)}", traces, layout, 300),
            )
        )
    return out


def weight_histogram(facts: Mapping[str, Any], color: str) -> Figure:
    """Distribution of the rollout states' weights in one environment; 1 is no weighting."""
    edges, counts = (
        np.asarray(facts["histogram"]["edges"], float),
        np.asarray(facts["histogram"]["counts"], float),
    )
    share = counts / max(counts.sum(), 1e-12)
    trace = {
        "type": "bar",
        "x": short((edges[1:] + edges[:-1]) / 2),
        "y": short(share),
        "width": short(np.diff(edges)),
        "marker": {"color": color, "line": {"width": 0}},
        "name": "",
        "hovertemplate": "weight %{x:.2f}: %{y:.1%} of the states",
    }
    line = {
        "type": "line",
        "x0": 1,
        "x1": 1,
        "yref": "paper",
        "y0": 0,
        "y1": 1,
        "line": {"color": "@ink", "width": 1, "dash": "dot"},
    }
    return Figure(
        "Histogram of the weights",
        [trace],
        {
            "xaxis": axis("weight", rangemode="tozero", nticks=6),
            "yaxis": axis(tickformat=".0%", nticks=4),
            "bargap": 0,
            "shapes": [line],
        },
        190,
    )


def trajectories(
    paths: Mapping[str, Sequence[Sequence[Sequence[float]]]], rows: Sequence[str]
) -> Figure:
    """Paths of some episodes in the plane: ring at the start, dot at the end.

    paths: episodes of every row, each a sequence of (x, y).
    """
    traces: list[dict[str, Any]] = []
    for row, episodes in paths.items():
        color = row_color(rows, row) if row in rows else "@ink2"
        line: list[list[float | None]] = []
        shown = [np.asarray(e, float) for e in episodes[:MOST_EPISODES] if len(e)]
        if not shown:
            continue
        for episode in shown:
            kept = np.unique(
                np.linspace(0, len(episode) - 1, min(len(episode), MOST_POINTS // 4))
                .round()
                .astype(int)
            )
            line += [[_round(v) for v in point[:2]] for point in episode[kept]]
            line.append([None, None])  # a gap between episodes
        meta = {"meta": {"row": rows.index(row) if row in rows else -1}, "name": row}
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": [p[0] for p in line],
                "y": [p[1] for p in line],
                "line": {"color": f"{color}/0.7", "width": 1.4},
                **meta,
            }
        )
        for index, marker in (
            (0, {"symbol": "circle-open", "size": 5, "color": color}),
            (-1, {"size": 5, "color": color}),
        ):
            traces.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "x": short([e[index][0] for e in shown]),
                    "y": short([e[index][1] for e in shown]),
                    "marker": marker,
                    **meta,
                }
            )
    look: dict[str, Any] = {"showgrid": True, "nticks": 5, "tickfont": {"size": 10}}
    return Figure(
        "Paths of some evaluation episodes",
        traces,
        {
            "xaxis": axis(**look, constrain="domain"),
            "yaxis": axis(**look, scaleanchor="x", constrain="domain"),
        },
        280,
        static=True,
    )


def short(values: Any) -> list[float]:
    """Enough digits for a screen, few bytes."""
    return [_round(v) for v in np.asarray(values, float).tolist()]


def _round(value: float) -> float:
    return float(f"{value:.4g}")
