"""What the runs of a sweep say together: success of every row by setting, differences, where
weights were active, plots.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from alltrades.data.weights.estimate import EXPECTED, REMEDY
from alltrades.envs.rollouts.differences import paired_over_seeds
from alltrades.envs.rollouts.evaluation import RETURN, SUCCESS, Evaluation, agreed, measures
from alltrades.envs.rollouts.statistics import bootstrap_mean
from alltrades.envs.rollouts.verdicts import corrected
from alltrades.settings.schema import show
from alltrades.studies.plots import Point, intervals_plot
from alltrades.studies.result import StudyResult, Table
from alltrades.studies.sweep_settings import Settings
from alltrades.system.reading import read_mapping

BOOT = 4000
Mean = tuple[float, tuple[float, float], list[float]]  # over seeds, 95 % interval, of every seed


@dataclass
class Cell:
    """One combination of settings with the evaluations of its training seeds, and what is known of
    the weights.
    """

    values: dict[str, Any]
    seeds: dict[int, dict[str, Evaluation]] = field(default_factory=dict)
    weights: dict[str, list[list[dict[str, Any]]]] = field(
        default_factory=dict
    )  # per row and seed, facts of every environment

    def add(self, seed: int, evaluations: dict[str, Evaluation], folder: Path) -> None:
        """A finished run in `folder`."""
        self.seeds[seed] = agreed(evaluations)
        for row in evaluations:
            found = [
                read_mapping(p, EXPECTED, REMEDY)
                for p in sorted((folder / "weights" / row).glob("*/weights.json"))
            ]
            if found:
                self.weights.setdefault(row, []).append(found)

    @property
    def rows(self) -> list[str]:
        return list(next(iter(self.seeds.values())))

    @property
    def environments(self) -> list[str]:
        return [r.environment for r in next(iter(next(iter(self.seeds.values())).values())).rows]

    def label(self, key: str) -> Any:
        """A value as a number or short text; environments by how many they are."""
        value = self.values[key]
        if key == "environments":
            return len(self.environments)
        return value if isinstance(value, int | float | str) else show(value, 60)

    def judged(self, metric: str, environments: list[str] | None = None) -> list[str]:
        """Its environments, or those of some, that have a metric: success, or return where nothing
        says success, or any other.
        """
        rows = next(iter(next(iter(self.seeds.values())).values())).rows
        mine = {r.environment: r.metric for r in rows}
        names = self.environments if environments is None else environments
        return [n for n in names if metric not in (SUCCESS, RETURN) or mine[n] == metric]

    def mean(self, row: str, environments: list[str], metric: str = SUCCESS) -> Mean:
        """Mean over environments and seeds, its interval (over starts, each the mean over seeds),
        and every seed's mean.
        """
        each = []
        for evaluations in self.seeds.values():
            found = {r.environment: r for r in evaluations[row].rows}
            each.append([found[n].values(metric) for n in self.judged(metric, environments)])
        mean, interval = bootstrap_mean(
            [np.mean(same, axis=0) for same in zip(*each)],
            BOOT,
            bounds=(0.0, 1.0) if metric == SUCCESS else None,
        )
        return mean, interval, [float(np.mean([v.mean() for v in own])) for own in each]


def summarise(s: Settings, cells: list[Cell]) -> StudyResult:
    """Tables and plots of a sweep: of success, and of what else every environment measures."""
    keys = list(s.sweep)
    common = [e for e in cells[0].environments if all(e in c.environments for c in cells)]
    every = measures(e for c in cells for of_seed in c.seeds.values() for e in of_seed.values())
    there = {name for c in cells for name in c.environments}
    metrics = tuple(m for m in every if m in (SUCCESS, RETURN) or there == set(every[m]))
    tables = []
    for metric in metrics:
        tables.append(
            _mean_table(s, cells, keys, metric, metric, "mean over environments and seeds")
        )
        if common and any(len(c.environments) > len(common) for c in cells):
            where = f"in the environments that every run has: {', '.join(common)}"
            tables.append(_mean_table(s, cells, keys, metric, f"{metric}_common", where, common))
            tables.append(_difference_table(s, cells, keys, metric, "_common", where, common))
        tables.append(_difference_table(s, cells, keys, metric))
    return StudyResult(
        s.title or s.name,
        f"{len(cells)} settings, training seeds {', '.join(map(str, s.seeds))}, "
        f"{s.evaluation.episodes} episodes per environment and row; 95 % bootstrap intervals over "
        "starts (each start averaged over seeds).",
        _findings(cells, keys, metrics),
        [*tables, *_weight_tables(cells, keys), _environment_table(cells, keys)],
        _figures(cells, keys, common, metrics),
        {"sweep": s.sweep, "seeds": list(s.seeds)},
    )


def _mean_table(
    s: Settings,
    cells: list[Cell],
    keys: list[str],
    metric: str,
    name: str,
    caption: str,
    environments: list[str] | None = None,
) -> Table:
    columns = (
        *keys,
        "row",
        metric,
        "low",
        "high",
        *(f"seed {x}" for x in s.seeds),
        "mean over",
        "weights active in",
    )
    lines = []
    for cell in cells:
        chosen = environments or cell.environments
        for row in cell.rows:
            mean, (low, high), each = cell.mean(row, chosen, metric)
            active = [
                str(sum(w["active"] for w in of_seed)) for of_seed in cell.weights.get(row, [])
            ]
            lines.append(
                [
                    *(cell.label(k) for k in keys),
                    row,
                    mean,
                    low,
                    high,
                    *each,
                    len(chosen),
                    " ".join(active) or None,
                ]
            )
    return Table(name, columns, lines, f"{metric}, {caption}")


def _difference_table(
    s: Settings,
    cells: list[Cell],
    keys: list[str],
    metric: str,
    suffix: str = "",
    where: str = "",
    environments: list[str] | None = None,
) -> Table:
    """Paired differences that the recipe asks for, within every cell."""
    compared = [
        (cell, a, b)
        for cell in cells
        for a, b in s.evaluation.compare
        or [("generalist", row) for row in cell.rows if row != "generalist"]
        if a in cell.rows and b in cell.rows
    ]
    pairs = corrected(
        [
            paired_over_seeds(
                [
                    (e[a].only(names), e[b].only(names))
                    for names in (cell.judged(metric, environments),)
                    for e in cell.seeds.values()
                ],
                n_boot=BOOT,
                metric=metric,
            )
            for cell, a, b in compared
        ]
    )
    lines = [
        [
            *(cell.label(k) for k in keys),
            f"{a} - {b}",
            found.mean,
            *found.interval,
            *(found.seed_interval or (None, None)),
            found.verdict,
            *found.seeds,
        ]
        for (cell, a, b), found in zip(compared, pairs)
    ]
    columns = ("a - b", "difference", "low", "high", "seeds low", "seeds high", "verdict")
    return Table(
        ("differences" if metric == SUCCESS else f"differences_{metric}") + suffix,
        (*keys, *columns, *(f"seed {x}" for x in s.seeds)),
        lines,
        f"Paired differences in {metric} on common starts" + (f", {where}" if where else ""),
    )


def _environment_table(cells: list[Cell], keys: list[str]) -> Table:
    lines = []
    for cell in cells:
        for seed, evaluations in cell.seeds.items():
            lines += [
                [
                    *(cell.label(k) for k in keys),
                    row,
                    seed,
                    r.environment,
                    r.n,
                    r.successes,
                    *(r.interval or (None, None)),
                ]
                for row, evaluation in evaluations.items()
                for r in evaluation.rows
            ]
    columns = (*keys, "row", "seed", "environment", "episodes", "successes", "low", "high")
    return Table("environments", columns, lines, shown=False)


def _weight_tables(cells: list[Cell], keys: list[str]) -> list[Table]:
    """What is known of estimated weights, mean over the environments and seeds in which they were
    estimated or active.
    """
    lines = []
    for cell in cells:
        for row, seeds in cell.weights.items():
            every = [w for of_seed in seeds for w in of_seed]
            estimated, active = ([w for w in every if w[k]] for k in ("auc_interval", "active"))
            if not estimated:
                continue
            confirmed = sum(w["auc_interval"][0] > 0.5 for w in estimated)
            means = [float(np.mean([w[k] for w in estimated])) for k in ("auc", "tau")]
            balances = [w["moment_balance"] for w in active if w["moment_balance"] is not None]
            kept = [
                float(np.mean([w["ess"] for w in active])) if active else None,
                *(np.mean(balances, axis=0).tolist() if balances else [None] * 2),
            ]
            lines.append(
                [
                    *(cell.label(k) for k in keys),
                    row,
                    len(every),
                    len(estimated),
                    confirmed,
                    len(active),
                    *means,
                    *kept,
                ]
            )
    columns = (
        *keys,
        "row",
        "of",
        "estimated",
        "AUC confirmed",
        "active",
        "AUC",
        "tau",
        "ESS",
        "distance before",
        "distance after",
    )
    return (
        [
            Table(
                "weights",
                columns,
                lines,
                "Weights of environments x seeds: where a ratio was estimated, where the interval "
                "of its held-out AUC lies above 0.5, where it was active; means over those: AUC "
                "and tau, ESS, distance of rollout states from held-out demonstrations' before and "
                "after weighing, in deviations",
            )
        ]
        if lines
        else []
    )


def _findings(cells: list[Cell], keys: list[str], metrics: tuple[str, ...]) -> list[str]:
    lines = []
    for cell in cells:
        named = ", ".join(f"{k} = {cell.label(k)}" for k in keys)
        for metric in metrics:
            means = [
                f"{row} {cell.mean(row, cell.environments, metric)[0]:.3f}" for row in cell.rows
            ]
            lines.append(
                f"{named}: {'' if metric == SUCCESS else f'{metric}: '}" + ", ".join(means)
            )
    return lines


def _figures(
    cells: list[Cell], keys: list[str], common: list[str], metrics: tuple[str, ...]
) -> list[tuple[str, Any]]:
    """A metric of every row against the first setting, one plot for each combination of the
    others.
    """
    groups: dict[tuple, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(tuple(cell.label(k) for k in keys[1:]), []).append(cell)
    out = []
    for metric, (rest, mine) in itertools.product(metrics, groups.items()):
        title = ", ".join(f"{k} = {v}" for k, v in zip(keys[1:], rest))
        parts: list[tuple[str, list[str] | None]] = [(metric, None)]
        if keys[0] == "environments" and common:
            parts.append((f"{metric} in the {len(common)} environments that every run has", common))
        for what, environments in parts:
            series: Mapping[str, list[Point]] = {
                row: [
                    (c.label(keys[0]), *_flat(c.mean(row, environments or c.environments, metric)))
                    for c in mine
                ]
                for row in mine[0].rows
            }
            numbers = [
                x for points in series.values() for x, *_ in points if isinstance(x, int | float)
            ]
            wide = len(numbers) > 0 and min(numbers) > 0 and max(numbers) >= 8 * min(numbers)
            out.append(
                (
                    f"{what} by {keys[0]}" + (f", {title}" if title else ""),
                    intervals_plot(
                        f"{what} of every row by {keys[0]} {title}",
                        series,
                        keys[0],
                        metric,
                        log_x=wide,
                    ),
                )
            )
    return out


def _flat(value: Mean) -> tuple[float, float, float]:
    return value[0], *value[1]
