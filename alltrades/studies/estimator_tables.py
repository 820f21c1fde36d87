"""What the repetitions of the study of estimators say: tables, differences with intervals,
plots.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from alltrades.envs.rollouts.statistics import bootstrap_mean
from alltrades.studies.estimator_settings import Settings
from alltrades.studies.plots import intervals_plot
from alltrades.studies.result import StudyResult, Table

RAW, RELATIVE, IN_SAMPLE = "quadratic, raw", "quadratic, relative", "mlp in-sample, raw"
OURS = (RELATIVE, "rulsif", "classifier-mlp")
BOOT = 4000
Interval = tuple[float, tuple[float, float]]


class Results:
    """Rows of all repetitions, looked up by what they are of."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.found: dict[tuple, dict[int, dict[str, Any]]] = {}
        for row in rows:
            key = tuple(row[k] for k in ("estimator", "guard", "scored", "demos", "dim", "drift"))
            self.found.setdefault(key, {})[row["repetition"]] = row

    def values(self, field: str, *key: Any) -> np.ndarray:
        """(R,) of one estimator, guard, scoring and cell, in the order of the repetitions."""
        mine = self.found[key]
        return np.array([mine[r][field] for r in sorted(mine)], dtype=float)

    def mean(self, field: str, *key: Any) -> Interval:
        return bootstrap_mean([self.values(field, *key)], BOOT)

    def difference(
        self, a: tuple[str, str], b: tuple[str, str], where: str, cells: list[tuple]
    ) -> Interval:
        """Error of (estimator, guard) a minus that of b on the same draws, mean over cells."""
        return bootstrap_mean(
            [
                self.values("error", *a, where, *cell) - self.values("error", *b, where, *cell)
                for cell in cells
            ],
            BOOT,
        )


def summarise(s: Settings, rows: list[dict[str, Any]]) -> StudyResult:
    """Tables as in the usual form (error / ESS), differences that the claims rest on, what the
    guards do.
    """
    found = Results(rows)
    estimators = list(dict.fromkeys(r["estimator"] for r in rows))
    shifted = [cell for cell in s.cells() if cell[2] > 0]
    tables = [_error_table(found, estimators, shifted, where) for where in ("mixture", "rollouts")]
    differences = _differences(found, shifted)
    tables.append(
        Table(
            "differences",
            ("a - b", "d", "demos", "drift", "difference", "low", "high"),
            [
                [label, d, n, share, mean, low, high]
                for (label, n, d, share), (mean, (low, high)) in differences.items()
            ],
            f"Differences in relative error on the same {s.repetitions} draws, mixture, guard off",
        )
    )
    guards = _guards(found, s)
    tables.append(
        Table(
            "guards",
            (
                "estimator",
                "drift",
                "demos",
                "off",
                "ess",
                "ess+auc",
                "ess+auc - off",
                "low",
                "high",
                "ess+auc - ess",
                "low ",
                "high ",
                "weights off",
            ),
            guards,
            "Relative error on the mixture by guard, mean over dimensions; share of draws with "
            "weights off",
        )
    )
    tables.append(
        Table(
            "all",
            (
                "estimator",
                "guard",
                "scored",
                "demos",
                "d",
                "drift",
                "error",
                "low",
                "high",
                "ess",
                "ess low",
                "ess high",
                "repetitions",
            ),
            _every(found),
            "Every cell",
            shown=False,
        )
    )
    figures = []
    for where in ("mixture", "rollouts"):
        series = (
            {
                e: [
                    (_cell_name(cell), *_flat(found.mean("error", e, "off", where, *cell)))
                    for cell in shifted
                ]
                for e in estimators
            }
            if shifted
            else {}
        )
        if series:
            figures.append(
                (
                    "Relative error, scored on "
                    f"{'the mixture' if where == 'mixture' else 'rollouts alone'}, no guard",
                    intervals_plot(
                        f"Relative error by estimator, {where}",
                        series,
                        "",
                        "relative error",
                        log_y=True,
                    ),
                )
            )
    return StudyResult(
        "Density-ratio estimators with a known ratio",
        f"Linear-Gaussian episodes of 30 states, {s.rollouts} rollouts, {s.repetitions} "
        "repetitions; error of the self-normalised estimate of E|x - mean|^2 under the law of "
        "demonstration states, 95 % bootstrap intervals over repetitions.",
        _findings(differences, guards, shifted, s),
        tables,
        figures,
        {"settings": s.model_dump(mode="json")},
    )


def _error_table(found: Results, estimators: list[str], cells: list[tuple], where: str) -> Table:
    lines = []
    for e in estimators:
        line: list[Any] = [e]
        for cell in cells:
            (error, (low, high)), (ess, _) = (
                found.mean(f, e, "off", where, *cell) for f in ("error", "ess")
            )
            line.append(f"{error:.2f} [{low:.2f}, {high:.2f}] / {ess:.2f}")
        lines.append(line)
    scored = (
        "the mixture of demonstration and rollout states"
        if where == "mixture"
        else "rollouts alone"
    )
    return Table(
        f"error_{where}",
        ("estimator", *(_cell_name(c) for c in cells)),
        lines,
        f"Relative error [95 % interval] / ESS per row, scored on {scored}, guard off",
    )


def _differences(found: Results, cells: list[tuple]) -> dict[tuple, Interval]:
    pairs = [(RELATIVE, RAW), *((e, IN_SAMPLE) for e in OURS)]
    return {
        (f"{a} - {b}", *cell): found.difference((a, "off"), (b, "off"), "mixture", [cell])
        for a, b in pairs
        for cell in cells
    }


def _guards(found: Results, s: Settings) -> list[list[Any]]:
    lines = []
    for e in OURS:
        for share in s.drift:
            for n in s.demos:
                cells = [c for c in s.cells() if c[0] == n and c[2] == share]
                means = [
                    float(np.mean([found.values("error", e, g, "mixture", *c) for c in cells]))
                    for g in ("off", "ess", "ess+auc")
                ]
                to_off, to_ess = (
                    _flat(found.difference((e, "ess+auc"), (e, other), "mixture", cells))
                    for other in ("off", "ess")
                )
                off = float(
                    np.mean([found.values("tau", e, "ess+auc", "mixture", *c) == 0 for c in cells])
                )
                lines.append([e, share, n, *means, *to_off, *to_ess, off])
    return lines


def _every(found: Results) -> list[list[Any]]:
    return [
        [*key, *_flat(found.mean("error", *key)), *_flat(found.mean("ess", *key)), len(mine)]
        for key, mine in found.found.items()
    ]


def _findings(
    differences: dict[tuple, Interval], guards: list[list[Any]], shifted: list[tuple], s: Settings
) -> list[str]:
    lines = []
    few = min(s.demos)
    lines.append(
        f"At {few} demonstrations the relative ratio has a smaller error than the raw one in "
        + _count(
            differences, lambda label, n: label == f"{RELATIVE} - {RAW}" and n == few, below=True
        )
    )
    for e in OURS:
        lines.append(
            f"{e} is beaten by the in-sample network in "
            + _count(differences, lambda label, n, e=e: label == f"{e} - {IN_SAMPLE}", below=False)
        )
    for share in s.drift:
        mine = [g for g in guards if g[1] == share]
        worse = sum(g[10] > 0 for g in mine)
        lines.append(
            f"Drift {share:g}: turning weights off where the AUC's interval holds 0.5 changes the "
            f"error by {min(g[9] for g in mine):+.3f} to {max(g[9] for g in mine):+.3f}; larger "
            f"error (interval above 0) in {worse} of {len(mine)} lines."
        )
    return lines if shifted else lines[-len(s.drift) :]


def _count(differences: dict[tuple, Interval], mine: Callable[..., bool], below: bool) -> str:
    """ "2 of 2 cells (-0.53, -0.41)" with the intervals that exclude 0 on the asked side
    counted.
    """
    chosen = [v for (label, n, _, _), v in differences.items() if mine(label, n)]
    hits = sum(high < 0 if below else low > 0 for _, (low, high) in chosen)
    return (
        f"{hits} of {len(chosen)} cells (differences {', '.join(f'{m:+.3f}' for m, _ in chosen)})."
    )


def _flat(value: Interval) -> tuple[float, float, float]:
    return value[0], *value[1]


def _cell_name(cell: tuple) -> str:
    n, d, share = cell
    return f"d={d}, {n} demos" + (f", drift {share:g}" if share != 0.4 else "")
