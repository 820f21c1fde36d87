"""Figures of studies for method.ipynb (matplotlib): every axis is named, every series is
in a legend.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from alltrades.studies.evidence import Results, Row, table


def _panels(count: int, height: float = 3.4, **more: Any) -> tuple[Any, Any]:
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(
        1, count, figsize=(min(13.0, 5.5 * count), height), squeeze=False, **more
    )
    return fig, axes[0]


def _legend(fig: Any, axes: Sequence[Any]) -> None:
    """One legend below the panels, each name once."""
    named = {
        label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels())
    }
    fig.legend(
        named.values(),
        named.keys(),
        loc="upper center",
        bbox_to_anchor=(0.5, 0.0),
        ncol=min(5, len(named)),
        fontsize=8,
    )
    fig.tight_layout()


def _logarithmic(axis: Any, values: Sequence[float]) -> None:
    if min(values) > 0 and max(values) >= 8 * min(values):
        axis.set_xscale("log")
        axis.set_xticks(sorted(set(values)), [f"{v:g}" for v in sorted(set(values))])
        axis.minorticks_off()


def sweep_curves(
    rows: Sequence[Row], x: str, metric: str = "success", by: Sequence[str] = ()
) -> Any:
    """Mean and 95 % interval of every row against a setting, one panel for each combination of the
    settings `by`.
    """
    groups = list(dict.fromkeys(tuple(r[k] for k in by) for r in rows))
    fig, axes = _panels(len(groups), sharey=True)
    for axis, group in zip(axes, groups):
        mine = [r for r in rows if tuple(r[k] for k in by) == group]
        for name in dict.fromkeys(r["row"] for r in mine):
            points = sorted((r for r in mine if r["row"] == name), key=lambda r: r[x])
            mean, low, high = (np.array([r[k] for r in points]) for k in (metric, "low", "high"))
            axis.errorbar(
                [r[x] for r in points],
                mean,
                [mean - low, high - mean],
                marker="o",
                ms=4,
                capsize=2,
                label=name,
            )
        axis.set(
            xlabel=x,
            ylabel=f"{metric} (mean, 95 % interval)",
            title=", ".join(f"{k} = {v}" for k, v in zip(by, group)),
        )
        _logarithmic(axis, [r[x] for r in mine])
    _legend(fig, axes)
    return fig


def exact_curves(results: Results) -> Any:
    """Excess risk against demonstrations for labeled-only and two stages, and against rollouts for
    drawn chunks, by d_G.
    """
    s, rows = results["settings"], table(results, "excess")
    d_h, largest = s["specialist"][0], max(s["demos"])
    fig, axes = _panels(3, sharey=True)
    shown = (
        ("labeled", "n", "labeled-only"),
        ("score", "n", "two stages"),
        ("noise", "N", "two stages, drawn chunks"),
    )
    for axis, (method, data, title) in zip(axes, shown):
        for d_g in s["generalist"]:
            enough = -(-s["per_feature"] * d_g // s["environments"])
            mine = sorted(
                (
                    r
                    for r in rows
                    if (r["method"], r["d_H"], r["d_G"]) == (method, d_h, d_g)
                    and (r["N"] in (None, enough) if data == "n" else r["n"] == largest)
                ),
                key=lambda r: r[data],
            )
            half = [1.96 * r["deviation"] / np.sqrt(r["repetitions"]) for r in mine]
            axis.errorbar(
                [r[data] for r in mine],
                [r["excess"] for r in mine],
                half,
                marker="o",
                ms=3,
                label=f"d_G = {d_g}",
            )
        axis.axhline(s["target"], color="k", lw=0.7, ls=":", label="target")
        axis.set(
            xscale="log",
            yscale="log",
            title=f"{title}, d_H = {d_h}",
            ylabel="excess risk (share of ignoring the state)",
            xlabel=f"{'demonstrations' if data == 'n' else 'rollouts'} {data} per environment",
        )
    _legend(fig, axes)
    return fig


def estimator_differences(rows: Sequence[Row]) -> Any:
    """Differences in relative error with their intervals, one line per pair and cell."""
    fig, (axis,) = _panels(1, 0.3 * len(rows) + 1.5)
    mean, low, high = (np.array([r[k] for r in rows]) for k in ("difference", "low", "high"))
    axis.errorbar(
        mean,
        np.arange(len(rows)),
        xerr=[mean - low, high - mean],
        fmt="o",
        ms=4,
        label="mean, 95 % interval",
    )
    axis.set_yticks(
        np.arange(len(rows)),
        [f"{r['a - b']}, d={r['d']}, {r['demos']} demos" for r in rows],
        fontsize=7,
    )
    axis.axvline(0, color="k", lw=0.5)
    axis.set(
        xlabel="difference in relative error (below 0: the first is better)", ylabel="pair and cell"
    )
    _legend(fig, [axis])
    return fig


def front_panels(results: Results) -> Any:
    """Points of every front and method in the success of the first two environments, with their
    intervals; a panel per front.
    """
    rows = table(results, "front")
    names = [c.removeprefix("success ") for c in rows[0] if c.startswith("success ")][:2]
    kinds = list(dict.fromkeys(r["front"] for r in rows))
    fig, axes = _panels(len(kinds), 3.6, sharex=True, sharey=True)
    for axis, kind in zip(axes, kinds):
        for method in dict.fromkeys(r["method"] for r in rows):
            mine = [r for r in rows if (r["front"], r["method"]) == (kind, method)]
            points, low, high = (
                np.array([[r[f"{k} {e}"] for r in mine] for e in names])
                for k in ("success", "low", "high")
            )
            x, y = ([points[i] - low[i], high[i] - points[i]] for i in (0, 1))
            axis.errorbar(
                *points, xerr=x, yerr=y, marker="o", ms=4, lw=1, elinewidth=0.5, label=method
            )
        axis.set(title=kind, xlabel=f"success {names[0]}", ylabel=f"success {names[1]}")
    _legend(fig, axes)
    return fig
