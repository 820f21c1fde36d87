"""What measured fronts say: points with intervals, domination at every preference, hypervolumes,
plots.

Success and mean return of every environment are the coordinates. With several training seeds a
start's value is its mean over them; intervals are bootstrapped over starts, which all methods and
preferences share, and speak of these training seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from alltrades.envs.rollouts.statistics import bootstrap_mean, wilson
from alltrades.envs.rollouts.verdicts import seed_interval, verdict
from alltrades.report.figures import Figure
from alltrades.studies.pareto_points import MOST_COORDINATES, covered, dominated, hypervolume
from alltrades.studies.pareto_training import GENERALIST, Measured
from alltrades.studies.result import StudyResult, Table

BOOT = 1000
MEASURES = ("success", "return")


@dataclass(frozen=True)
class Front:
    """One method's points: value of every start, (P, K, n), by measure; of each training seed in
    `seeds` (S, P, K).
    """

    kind: str
    method: str
    starts: dict[str, np.ndarray]
    seeds: dict[str, np.ndarray]

    @property
    def name(self) -> str:
        return f"{self.kind}, {self.method}"

    def points(self, measure: str) -> np.ndarray:
        """(P, K)."""
        return self.starts[measure].mean(axis=2)

    def resampled(self, measure: str, draws: np.ndarray) -> np.ndarray:
        """(BOOT, P, K) for starts `draws` (BOOT, K, n)."""
        values = self.starts[measure]
        return np.stack(
            [values[:, k][:, draws[:, k]].mean(axis=2).T for k in range(values.shape[1])], axis=2
        )


def gather(seeds: Sequence[Measured]) -> list[Front]:
    """Fronts of one or more training seeds, measured on common starts."""
    fronts = []
    for kind, method in seeds[0]:
        values: dict[str, list[np.ndarray]] = {m: [] for m in MEASURES}
        for measured in seeds:
            rows = [e.rows for e in measured[kind, method]]
            values["success"].append(
                np.array([[r.success().astype(float) for r in point] for point in rows])
            )
            values["return"].append(
                np.array([[r.returns for r in point] for point in rows], dtype=float)
            )
        stacked = {m: np.stack(v) for m, v in values.items()}  # (S, P, K, n)
        fronts.append(
            Front(
                kind,
                method,
                {m: v.mean(0) for m, v in stacked.items()},
                {m: v.mean(3) for m, v in stacked.items()},
            )
        )
    return fronts


def summarise(
    environments: Sequence[str],
    preferences: np.ndarray,
    seeds: Sequence[Measured],
    training_seeds: Sequence[int],
    facts: dict[str, Any],
) -> StudyResult:
    """Tables, plots and findings of fronts over `environments` (K) at `preferences` (P, K)."""
    fronts = gather(seeds)
    _, count, n = fronts[0].starts["success"].shape
    draws = np.random.default_rng(0).integers(n, size=(BOOT, count, n))
    references = {
        "success": np.zeros(count),
        "return": np.min([f.points("return").min(axis=0) for f in fronts], axis=0),
    }
    gaps = _gaps(fronts, preferences)
    volumes, differences = _volumes(fronts, references, draws)
    tables = [_points(fronts, environments, preferences, len(seeds)), gaps, volumes]
    lead = (
        f"{len(preferences)} preferences over "
        f"{' and '.join(environments) if count == 2 else f'{count} environments'}, {n} evaluation "
        "episodes per environment and point on common starts, training seeds "
        f"{', '.join(map(str, training_seeds))}. Reference points of the hypervolumes: success 0; "
        f"return {', '.join(f'{v:.3g}' for v in references['return'])}, the lowest of all points."
    )
    figures = [
        (f"{measure.capitalize()}", _plot(fronts, environments, preferences, measure))
        for measure in MEASURES
    ]
    result = StudyResult(
        "Pareto front",
        lead,
        _findings(fronts, gaps, differences),
        tables,
        figures,
        {
            "environments": list(environments),
            "preferences": preferences,
            "reference": references,
            "differences": differences,
            "training_seeds": list(training_seeds),
            "per_seed": {f.name: {m: f.seeds[m] for m in MEASURES} for f in fronts},
            **facts,
        },
    )
    return result


def _points(
    fronts: Sequence[Front], environments: Sequence[str], preferences: np.ndarray, seeds: int
) -> Table:
    """One line per front, method and preference; "dominated" compares with the points of the same
    front and method.
    """
    columns = ["front", "method", *(f"lambda {e}" for e in environments)]
    for e in environments:
        columns += [f"success {e}", f"low {e}", f"high {e}", f"return {e}"]
    rows = []
    for front in fronts:
        success, returns, below = (
            front.points("success"),
            front.points("return"),
            dominated(front.points("success")),
        )
        for p, vector in enumerate(preferences):
            line: list[Any] = [front.kind, front.method, *(round(float(v), 4) for v in vector)]
            for k in range(len(environments)):
                values = front.starts["success"][p, k]
                low, high = (
                    wilson(int(values.sum()), len(values))
                    if seeds == 1
                    else bootstrap_mean([values], BOOT, bounds=(0.0, 1.0))[1]
                )
                line += [float(success[p, k]), low, high, float(returns[p, k])]
            rows.append([*line, "yes" if below[p] else ""])
    return Table(
        "front",
        (*columns, "dominated"),
        rows,
        "Points with 95 % intervals; dominated: by another point of the same front and method",
    )


def _pairs(fronts: Sequence[Front]) -> list[tuple[Front, Front]]:
    """The generalist's front and each labeled-only front of the same kind."""
    own = {f.kind: f for f in fronts if f.method == GENERALIST}
    return [(own[f.kind], f) for f in fronts if f.method != GENERALIST and f.kind in own]


def _gaps(fronts: Sequence[Front], preferences: np.ndarray) -> Table:
    """Generalist minus labeled-only at the same preference: in every environment, and weighed by
    lambda.
    """
    rows = []
    for a, b in _pairs(fronts):
        for measure in MEASURES:
            starts = a.starts[measure] - b.starts[measure]  # (P, K, n)
            difference, bounds = starts.mean(axis=2), (-1.0, 1.0) if measure == "success" else None
            seeds = np.einsum(
                "spk,pk->sp", a.seeds[measure] - b.seeds[measure], preferences
            )  # (S, P)
            for p, vector in enumerate(preferences):
                value, (low, high) = bootstrap_mean(
                    list(starts[p] * (len(vector) * vector)[:, None]), BOOT, bounds=bounds
                )
                over_seeds = seed_interval(seeds[:, p]) if len(seeds) > 1 else None
                word = verdict((low, high), over_seeds)
                rows.append(
                    [
                        a.kind,
                        b.method,
                        measure,
                        " ".join(f"{v:g}" for v in vector),
                        value,
                        low,
                        high,
                        word,
                        "yes" if (difference[p] >= 0).all() and (difference[p] > 0).any() else "",
                        " ".join(f"{d:+.3g}" for d in difference[p]),
                    ]
                )
    return Table(
        "gaps",
        (
            "front",
            "against",
            "measure",
            "lambda",
            "weighed by lambda",
            "low",
            "high",
            "verdict",
            "dominates",
            "by environment",
        ),
        rows,
        "Generalist minus labeled-only at the same preference, 95 % paired bootstrap; dominates: "
        "at least as good in every environment",
    )


def _volumes(
    fronts: Sequence[Front], references: dict[str, np.ndarray], draws: np.ndarray
) -> tuple[Table, list[dict[str, Any]]]:
    """Hypervolumes, and the generalist's minus labeled-only's with their paired bootstrap
    intervals.
    """
    columns = ("front", "method", "measure", "hypervolume", "low", "high")
    if draws.shape[1] > MOST_COORDINATES:
        return Table(
            "hypervolume",
            columns,
            [],
            f"Hypervolume: not computed for more than {MOST_COORDINATES} environments",
        ), []
    rows, found = [], {}
    for front in fronts:
        for measure, reference in references.items():
            drawn = np.array([hypervolume(p, reference) for p in front.resampled(measure, draws)])
            found[front.name, measure] = hypervolume(front.points(measure), reference), drawn
            rows.append(
                [
                    front.kind,
                    front.method,
                    measure,
                    found[front.name, measure][0],
                    *(float(x) for x in np.percentile(drawn, [2.5, 97.5])),
                ]
            )
    differences = []
    for a, b in _pairs(fronts):
        for measure in references:
            (x, xs), (y, ys) = found[a.name, measure], found[b.name, measure]
            low, high = (float(v) for v in np.percentile(xs - ys, [2.5, 97.5]))
            differences.append(
                {
                    "front": a.kind,
                    "against": b.method,
                    "measure": measure,
                    "difference": x - y,
                    "interval": [low, high],
                }
            )
    return Table(
        "hypervolume", columns, rows, "Hypervolume with 95 % bootstrap intervals"
    ), differences


def _findings(
    fronts: Sequence[Front], gaps: Table, differences: Sequence[dict[str, Any]]
) -> list[str]:
    lines, points = [], {(f.kind, f.method, m): f.points(m) for f in fronts for m in MEASURES}
    for front, against, measure in dict.fromkeys((r[0], r[1], r[2]) for r in gaps.rows):
        mine = [r for r in gaps.rows if (r[0], r[1], r[2]) == (front, against, measure)]
        above, better = sum(r[4] > 0 for r in mine), sum(r[7] == "BETTER" for r in mine)
        worse, every = sum(r[7] == "WORSE" for r in mine), sum(r[8] == "yes" for r in mine)
        line = (
            f"{front}, {measure}: weighed by lambda the generalist is above {against} at {above} "
            f"of {len(mine)} preferences ({better} with an interval that excludes 0, {worse} below "
            f"with one), and at least as good in every environment at {every}."
        )
        own, other = points[front, GENERALIST, measure], points[front, against, measure]
        line += (
            f" A point of its front dominates {covered(other, own).sum()} of the {len(other)} "
            f"points of {against}, whose points dominate {covered(own, other).sum()} of its own."
        )
        for d in differences:
            if (d["front"], d["against"], d["measure"]) == (front, against, measure):
                low, high = d["interval"]
                line += f" Hypervolume difference {d['difference']:+.3g} [{low:+.3g}, {high:+.3g}]."
        lines.append(line)
    return lines


def _plot(
    fronts: Sequence[Front], environments: Sequence[str], preferences: np.ndarray, measure: str
) -> Figure:
    """Two environments: one on each axis. More: their mean against the lowest of them. Dominated
    points are hollow.
    """
    two = len(environments) == 2
    traces = []
    for i, front in enumerate(fronts):
        points = front.points(measure)
        below = dominated(points)
        shown = points if two else np.stack([points.mean(axis=1), points.min(axis=1)], axis=1)
        half = (
            1.96 * front.starts[measure].std(axis=2) / np.sqrt(front.starts[measure].shape[2])
        )  # (P, K)
        bars = {"type": "data", "thickness": 1, "width": 0, "color": f"@row{i % 8}/0.5"}
        trace: dict[str, Any] = {
            "type": "scatter",
            "mode": "lines+markers",
            "name": front.name,
            "x": _short(shown[:, 0]),
            "y": _short(shown[:, 1]),
            "line": {
                "color": f"@row{i % 8}/0.6",
                "width": 1.5,
                "dash": "solid" if front.method == GENERALIST else "dot",
            },
            "marker": {
                "size": 9,
                "color": f"@row{i % 8}",
                "symbol": ["circle-open" if b else "circle" for b in below],
            },
            "text": [" ".join(f"{v:g}" for v in p) for p in preferences],
            "hovertemplate": "lambda %{text}: %{x:.3~g}, %{y:.3~g}",
        }
        if two:
            trace |= {
                "error_x": {**bars, "array": _short(half[:, 0])},
                "error_y": {**bars, "array": _short(half[:, 1])},
            }
        traces.append(trace)
    names = (
        [f"{measure} {e}" for e in environments]
        if two
        else [f"mean {measure}", f"lowest {measure}"]
    )
    common = {
        "gridcolor": "@grid",
        "linecolor": "@line",
        "zeroline": False,
        "automargin": True,
        "fixedrange": True,
    }
    layout = {
        "xaxis": {"title": {"text": names[0], "standoff": 8}, **common},
        "yaxis": {"title": {"text": names[1], "standoff": 8}, **common},
        "showlegend": True,
        "legend": {"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0},
    }
    return Figure(f"Pareto fronts in {measure}", traces, layout, 480)


def _short(values: np.ndarray) -> list[float]:
    return [float(f"{v:.4g}") for v in values]
