"""Words of a table of perturbations, in the terminal and on pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alltrades.envs.perturbations import NAMES
from alltrades.envs.rollouts.evaluation import SUCCESS, Evaluation, agreed, measures
from alltrades.report import text
from alltrades.report.columns import columns

UNPERTURBED = "unperturbed"  # name of the row that others are compared with


def heading(facts: Mapping[str, Any]) -> str:
    """Of which row, and how many episodes."""
    base = Evaluation.from_json(facts["evaluations"][UNPERTURBED])
    counts = sorted({r.n for r in base.rows})
    each = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    return f"{facts['row']} under perturbations, {each} episodes of each environment"


def tables(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """By metric, `lines` of each perturbation: name, result and 95 % interval, count, difference
    from the unperturbed episodes on the same starts with its interval, verdict, environments; and
    `environments`, the results in each, by name.
    """
    ordered = [k for k in (UNPERTURBED, *NAMES) if k in facts["evaluations"]]
    rows = {k: Evaluation.from_json(facts["evaluations"][k]) for k in ordered}
    same, out = agreed(rows), []
    for metric, ids in measures(same.values()).items():
        own = {kind: e.only(ids) for kind, e in same.items() if e.only(ids).rows}
        pairs = {p["a"]: p for p in facts["pairs"] if p["metric"] == metric}
        lines, each = [], []
        for kind, e in own.items():
            mean, bounds = e.mean(metric=metric)
            pair, n = pairs.get(kind), sum(r.n for r in e.rows)
            share = f"{round(mean * n)} of {n}" if metric == SUCCESS else f"{n}"
            few = len(e.rows) < len(own[UNPERTURBED].rows)
            lines.append(
                [
                    kind,
                    f"{text.rate(mean, 3)} {text.interval(bounds)}",
                    share,
                    f"{text.signed(pair['mean'], 3)} {text.signed_interval(pair['interval'], 2)}"
                    if pair
                    else "",
                    pair["verdict"] if pair else "",
                    f"{len(e.rows)} of {len(own[UNPERTURBED].rows)} environments" if few else "",
                ]
            )
            for r in e.rows:
                rate, interval = r.estimate(metric)
                each.append([r.environment, kind, f"{text.rate(rate)} {text.interval(interval)}"])
        order = {r.environment: i for i, r in enumerate(own[UNPERTURBED].rows)}
        each.sort(key=lambda line: order[line[0]])
        out.append({"metric": metric, "lines": lines, "environments": each})
    return out


def left_out_lines(facts: Mapping[str, Any]) -> list[str]:
    """Perturbations that change nothing anywhere."""
    none = [k for k in NAMES if k in facts["without"] and k not in facts["evaluations"]]
    return [f"nothing that is seen changes by {', '.join(none)}"] if none else []


def perturbation_text(facts: Mapping[str, Any]) -> str:
    """The table as aligned lines."""
    if UNPERTURBED not in facts["evaluations"]:
        return "\n".join(left_out_lines(facts))
    blocks = [heading(facts)]
    for table in tables(facts):
        head = [table["metric"], "", "n", f"minus {UNPERTURBED}", "", ""]
        blocks += columns([head, *table["lines"]])
    return "\n".join([*blocks, *left_out_lines(facts)])


def perturbation_part(facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """What pages show of a table; None of one without rows."""
    if UNPERTURBED not in facts.get("evaluations", {}):
        return None
    return {"heading": heading(facts), "tables": tables(facts), "notes": left_out_lines(facts)}
