"""How much data reach a given excess risk, and how that grows with a dimension: from curves of
repeated measurements.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from alltrades.report.figures import Figure

Curve = tuple[np.ndarray, np.ndarray]  # sizes (S,) increasing, excess (repetitions, S)
BOOT = 2000


def crossing(sizes: np.ndarray, excess: np.ndarray, target: float) -> float:
    """Size from which the curve stays at or below `target`, interpolated in logarithms; NaN where
    it never does or always is.

    Args:
        sizes: (S,) increasing. excess: (S,) positive.
    """
    above = np.flatnonzero(excess > target)
    if not len(above) or above[-1] == len(sizes) - 1:
        return float("nan")
    i = above[-1]
    share = np.log(excess[i] / target) / np.log(excess[i] / excess[i + 1])
    return float(np.exp(np.log(sizes[i]) + share * np.log(sizes[i + 1] / sizes[i])))


def requirement(curve: Curve, target: float, seed: int) -> tuple[float, np.ndarray]:
    """Size at which the mean curve crosses `target`, and (BOOT,) the same for repetitions resampled
    by `seed`.
    """
    sizes, excess = curve
    drawn = _resampled(excess, seed)
    return crossing(sizes, excess.mean(0), target), np.array(
        [crossing(sizes, row, target) for row in drawn]
    )


def elasticity(curves: Mapping[int, Curve], target: float, seed: int = 0) -> dict[str, Any] | None:
    """d log(size needed) / d log(dimension) by least squares over the dimensions, with a 95 %
    bootstrap interval.

    Args:
        curves: by dimension, at least two; repetitions of one number are resampled together, as
            they may share their data.

    Returns {"value", "interval", "needed": {dimension: size}}; None where a curve does not cross
    the target.
    """
    found = {d: requirement(c, target, seed) for d, c in curves.items()}
    sizes = np.array([f[0] for f in found.values()])
    if len(curves) < 2 or np.isnan(sizes).any():
        return None
    x = np.log(np.array(list(found), dtype=float))
    x -= x.mean()
    slopes = x @ np.log(np.stack([f[1] for f in found.values()])) / (x @ x)  # (BOOT,)
    low, high = np.nanpercentile(slopes, [2.5, 97.5])
    return {
        "value": float(x @ np.log(sizes) / (x @ x)),
        "interval": [float(low), float(high)],
        "needed": {str(d): float(v) for d, v in zip(found, sizes)},
    }


def slope(curve: Curve, last: int, seed: int = 0) -> tuple[float, tuple[float, float]]:
    """d log(excess) / d log(size) over the `last` sizes, and its 95 % bootstrap interval."""
    sizes, excess = curve
    x = np.log(sizes[-last:].astype(float))
    x -= x.mean()
    low, high = np.percentile(
        np.log(_resampled(excess, seed)[:, -last:]) @ x / (x @ x), [2.5, 97.5]
    )
    return float(np.log(excess.mean(0)[-last:]) @ x / (x @ x)), (float(low), float(high))


def _resampled(excess: np.ndarray, seed: int) -> np.ndarray:
    """(BOOT, S) means over resampled repetitions."""
    count = len(excess)
    return excess[np.random.default_rng(seed).integers(count, size=(BOOT, count))].mean(axis=1)


def curves_plot(label: str, curves: Mapping[str, Curve], target: float, axis: str) -> Figure:
    """Mean excess with 95 % intervals against size, both logarithmic; the target as a
    dotted line.
    """
    traces = []
    for i, (name, (sizes, excess)) in enumerate(curves.items()):
        mean, half = excess.mean(0), 1.96 * excess.std(0, ddof=1) / np.sqrt(len(excess))
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": name,
                "x": [int(s) for s in sizes],
                "y": [float(f"{v:.4g}") for v in mean],
                "marker": {"size": 6},
                "error_y": {
                    "type": "data",
                    "array": [float(f"{v:.3g}") for v in half],
                    "thickness": 1,
                    "width": 0,
                },
                "line": {"color": f"@row{i % 8}", "width": 2},
                "hovertemplate": "%{x}: %{y:.3~g}",
            }
        )
    line = {
        "type": "line",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "y0": target,
        "y1": target,
        "line": {"color": "@ink2", "width": 1, "dash": "dot"},
    }
    common = {
        "gridcolor": "@grid",
        "linecolor": "@line",
        "zeroline": False,
        "automargin": True,
        "fixedrange": True,
        "type": "log",
    }
    layout = {
        "xaxis": {"title": {"text": axis, "standoff": 8}, **common, "dtick": "D2"},
        "yaxis": {
            "title": {"text": "excess risk", "standoff": 8},
            **common,
            "tickformat": "~g",
            "dtick": 1,
        },
        "shapes": [line],
        "showlegend": True,
        "legend": {"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0},
    }
    return Figure(label, traces, layout, 360)
