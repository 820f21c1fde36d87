"""What `page.html` shows of what came out, section by section, as plain data: numbers are text,
so that the template only places them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alltrades.envs.rollouts.evaluation import (
    RETURN,
    SUCCESS,
    EnvironmentResult,
    Evaluation,
    agreed,
    measures,
)
from alltrades.report import text
from alltrades.report.figures import ROW_COLORS
from alltrades.report.open_loop import verdicts
from alltrades.report.run_files import RunFiles


def bar(
    mean: float, bounds: tuple[float, float], track: tuple[float, float] = (0.0, 1.0)
) -> dict[str, str]:
    """Positions of an interval bar in percent of its track, which spans the values `track`."""
    at, low, high = (100 * (v - track[0]) / (track[1] - track[0]) for v in (mean, *bounds))
    return {"at": f"{at:.2f}", "low": f"{low:.2f}", "width": f"{high - low:.2f}"}


def header(run: RunFiles) -> dict[str, Any]:
    """The verdict, and one tile per row."""
    tiles: list[dict[str, Any]] = []
    rows = agreed(run.evaluations)
    judged = measures(rows.values())
    metric = SUCCESS if SUCCESS in judged else RETURN
    own = {name: e.only(judged[metric]) for name, e in rows.items()} if judged else {}
    means = {name: e.mean(metric=metric) for name, e in own.items()}
    ends = [x for _, bounds in means.values() for x in bounds]
    track = (0.0, 1.0) if metric == SUCCESS or not ends else _track(ends)
    others = len(judged.get(RETURN, ())) if metric == SUCCESS else 0
    for i, (name, evaluation) in enumerate(own.items()):
        mean, bounds = means[name]
        tiles.append(
            {
                "name": name,
                "color": i % ROW_COLORS,
                "mean": text.rate(mean, 3),
                "interval": text.interval(bounds, 3),
                "bar": bar(mean, bounds, track),
                "episodes": sum(r.n for r in evaluation.rows),
                "environments": len(evaluation.rows),
                "signal": ", ".join(evaluation.success_uses),
            }
        )
    main = next((t for t in tiles if t["name"] == "generalist"), tiles[-1] if tiles else None)
    if main is None and run.open_loop:
        return {
            "headline": "Open loop",
            "tiles": [],
            "interval": "",
            "scope": f"{_count(len(run.open_loop), 'environment')}, nothing rolled out",
            "sentence": " ".join(verdicts(run.open_loop))
            or "Every policy is better than the trivial baselines on held-out episodes.",
        }
    if main is None:
        return {
            "headline": "Not measured yet",
            "tiles": [],
            "interval": "",
            "scope": "",
            "sentence": "The run folder holds no evaluation: the run has not come this far.",
        }
    line = text.sentence(run.comparison.get("pairs", ()), main["name"])
    return {
        "headline": f"{main['name']} {main['mean']}",
        "interval": main["interval"],
        "tiles": tiles,
        "scope": f"mean {metric} over {_count(main['environments'], 'environment')}, "
        f"{_count(main['episodes'], 'episode')}"
        + (f" ({_count(others, 'environment')} without success: returns below)" if others else ""),
        "sentence": line
        or f"No paired comparison of {main['name']} with another row is in the run folder.",
    }


def success(run: RunFiles) -> dict[str, Any] | None:
    """Environment x row, with the mean, the mean within shorter limits, and what the starts
    were.
    """
    if not run.evaluations:
        return None
    every = agreed(run.evaluations)
    judged = measures(every.values())
    starts = [{r.environment: r for r in e.rows} for e in every.values()]
    own = {name: e.only(judged.get(SUCCESS, [])) for name, e in every.items()}
    found = [{r.environment: r for r in e.rows} for e in own.values()]
    names = list(dict.fromkeys(name for rows in found for name in rows))
    body = [
        {"name": name, "note": "", "cells": [_cell(rows.get(name)) for rows in found]}
        for name in names
    ]
    means, totals = [], {sum(r.n for r in e.rows) for e in own.values()}
    for at in (None, *run.limits) if names else ():
        cells: list[dict[str, Any] | None] = []
        for evaluation in own.values():
            if not evaluation.rows:
                cells.append(None)
                continue
            mean, bounds = evaluation.mean(at)
            cells.append(
                {
                    "rate": text.rate(mean, 3),
                    "interval": text.interval(bounds, 3),
                    "bar": bar(mean, bounds),
                    "count": "" if len(totals) == 1 else f"n = {sum(r.n for r in evaluation.rows)}",
                }
            )
        means.append(
            {
                "name": f"mean of {len(names)}" if at is None else f"mean within {at} steps",
                "cells": cells,
                "note": f"{max(totals)} episodes each" if len(totals) == 1 and at is None else "",
            }
        )
    head = [
        {"name": name, "color": i % ROW_COLORS, "signal": ", ".join(e.success_uses)}
        for i, (name, e) in enumerate(run.evaluations.items())
    ]
    return {
        "head": head,
        "used": [f"{h['name']} ({h['signal']})" for h in head if h["signal"]],
        "body": body,
        "means": means,
        "starts": _starts(starts, list(dict.fromkeys(n for rows in starts for n in rows))),
        "faults": text.faults({name: [e] for name, e in run.evaluations.items()}),
        "details": _details(every),
        "metrics": [
            _metric([e.only(of) for e in every.values()], name)
            for name, of in judged.items()
            if name != SUCCESS
        ],
    }


def telling(run: RunFiles) -> dict[str, Evaluation]:
    """The rows in the environments that say success; none where no environment does."""
    rows = agreed(run.evaluations)
    names = measures(rows.values()).get(SUCCESS, [])
    return {name: own for name, e in rows.items() if (own := e.only(names)).rows}


def _track(ends: list[float]) -> tuple[float, float]:
    """From the smallest to the largest of the ends of intervals."""
    return min(ends), max(max(ends), min(ends) + 1e-9 * max(1.0, abs(min(ends))))


def _metric(rows: list[Evaluation], metric: str) -> dict[str, Any]:
    """Environment x row of another metric than success, with the mean; bars span all of its
    intervals.
    """
    names = list(dict.fromkeys(r.environment for e in rows for r in e.rows))
    found = [{r.environment: r.estimate(metric) for r in e.rows} for e in rows]
    means = [e.mean(metric=metric) if e.rows else None for e in rows]
    bounds = [
        x
        for estimates in (means, *(f.values() for f in found))
        for estimate in estimates
        if estimate is not None
        for x in estimate[1]
    ]
    track = _track(bounds)

    def cell(
        estimate: tuple[float, tuple[float, float]] | None, digits: int
    ) -> dict[str, Any] | None:
        if estimate is None:
            return None
        return {
            "rate": text.rate(estimate[0], digits),
            "interval": text.interval(estimate[1], digits),
            "count": "",
            "bar": bar(*estimate, track),
        }

    lead = "Mean over episodes of the environment's own measure, higher is better"
    if metric == RETURN:
        lead = "Nothing says success here: mean sum of rewards of an episode, higher is better"
    return {
        "name": metric,
        "lead": lead,
        "body": [{"name": n, "cells": [cell(f.get(n), 2) for f in found]} for n in names],
        "means": [{"name": f"mean of {len(names)}", "cells": [cell(m, 3) for m in means]}],
    }


def _cell(result: EnvironmentResult | None) -> dict[str, Any] | None:
    if result is None:
        return None
    rate, bounds = result.estimate()
    return {
        "rate": text.rate(rate),
        "interval": text.interval(bounds),
        "bar": bar(rate, bounds),
        "count": f"{result.successes} / {result.n}",
    }


def _starts(found: list[dict[str, EnvironmentResult]], names: list[str]) -> str:
    differ = [
        name for name in names if len({rows[name].seeds for rows in found if name in rows}) > 1
    ]
    if differ:
        return (
            f"Rows were not measured on the same starts in {', '.join(differ)}: their differences "
            "are not paired."
        )
    return "Every row was measured on the same starts." if len(found) > 1 else ""


def _details(evaluations: Mapping[str, Evaluation]) -> list[dict[str, Any]]:
    out = []
    for row, evaluation in evaluations.items():
        for r in evaluation.rows:
            steps = sorted(s for s in r.first_success or () if s > 0)
            out.append(
                {
                    "row": row,
                    "environment": r.environment,
                    "n": r.n,
                    "limit": r.max_steps,
                    "steps": str(steps[len(steps) // 2]) if steps else "-",
                    "policy": r.policy[:12],
                    "return": f"{sum(r.returns) / r.n:.4g}",
                    "reward": f"{sum(r.max_rewards) / r.n:.3f}",
                }
            )
    return out


def comparison(run: RunFiles) -> list[dict[str, Any]]:
    """Pairs with their verdict; the plots are beside them."""
    out = []
    for found in run.comparison.get("pairs", ()):
        pair = {**found, "per_environment": dict(run.ordered(found.get("per_environment", {})))}
        better, worse, n = text.tally(pair)
        out.append(
            {
                "a": pair["a"],
                "b": pair["b"],
                "metric": text.metric(pair),
                "verdict": pair["verdict"],
                "mean": text.signed(pair["mean"]),
                "interval": text.signed_interval(pair["interval"]),
                "pair": pair,
                "lines": [
                    (name, text.signed(v["mean"]), text.signed_interval(v["interval"]))
                    for name, v in pair["per_environment"].items()
                ],
                "tally": f"interval above 0 in {better}, below 0 in {worse} of "
                f"{_count(n, 'environment')}"
                if n
                else "",
                "seeds": ", ".join(text.signed(x) for x in pair.get("seeds", ()))
                if len(pair.get("seeds", ())) > 1
                else "",
            }
        )
    return out


def teachers(run: RunFiles) -> dict[str, Any] | None:
    """The generalist beside its best teacher in each environment."""
    found = run.comparison.get("teachers")
    if not found:
        return None
    lines = [
        {
            "name": name,
            "teacher": facts["teacher"],
            "theirs": text.rate(facts["teacher_success"]),
            "mine": text.rate(facts["success"]),
            "mean": text.signed(facts["mean"]),
            "interval": text.signed_interval(facts["interval"]),
        }
        for name, facts in run.ordered(found["environments"])
    ]
    return {"line": text.kept(found), "lines": lines}


def advice(run: RunFiles) -> list[dict[str, str]]:
    """One line per environment with the sources of error."""
    sources = (
        "specialist_error",
        "demonstration_error",
        "held_out_error",
        "distillation_gap",
        "auc",
        "ess",
    )
    return [
        {
            "name": name,
            "line": facts["line"],
            "solved": "yes" if facts["line"].startswith("solved") else "",
            **{k: text.rate(facts.get(k)) for k in sources},
        }
        for name, facts in run.ordered(run.advice)
    ]


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" + ("" if n == 1 else "s")
