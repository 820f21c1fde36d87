"""What `page.html` shows of how a run was made: weights, rollouts, rounds, films, and where all of
it came from. Numbers are text, so that the template only places them.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from alltrades.report import text
from alltrades.report.run_files import VIDEO_TYPES, RunFiles

LARGEST_VIDEO = 16 * 2**20  # bytes; a page of many must still open on a telephone


def weights(run: RunFiles) -> list[dict[str, Any]]:
    """Per generalist: quality of the weights in every environment; `plot` where there is a
    distribution to show.
    """
    out = []
    for row, environments in run.weights.items():
        lines = []
        for name, facts in run.ordered(environments):
            balance = facts.get("moment_balance")
            lines.append(
                {
                    "name": name,
                    "active": bool(facts.get("active")),
                    "auc": text.rate(facts.get("auc")),
                    "facts": facts,
                    "auc_interval": text.interval(facts.get("auc_interval")),
                    "ess": text.rate(facts.get("ess")),
                    "tau": text.rate(facts.get("tau")),
                    "max": text.rate(facts.get("max_weight")),
                    "demos": text.rate(facts.get("demo_mass")),
                    "balance": f"{balance[0]:.2f} to {balance[1]:.2f}" if balance else "-",
                    "warnings": facts.get("warnings") or [],
                    "plot": bool(
                        facts.get("active")
                        and facts.get("histogram")
                        and sum(facts["histogram"]["counts"]) > 0
                    ),
                }
            )
        out.append(
            {
                "row": row,
                "lines": lines,
                "active": sum(x["active"] for x in lines),
                "weighed": any(x["auc"] != "-" for x in lines),
            }
        )
    return out


def rollouts(run: RunFiles) -> dict[str, Any] | None:
    """Pseudo-data: environment x teacher, with totals."""
    if not run.rollouts:
        return None
    names = [
        name for name in run.environments if any(name in part for part in run.rollouts.values())
    ]
    body = [
        {"name": name, "cells": [_pseudo(part.get(name)) for part in run.rollouts.values()]}
        for name in names
    ]
    total = [
        _pseudo(
            {
                "n": sum(v["n"] for v in part.values()),
                "successes": _total(v["successes"] for v in part.values()),
                "steps": sum(v["steps"] for v in part.values()),
            }
        )
        for part in run.rollouts.values()
    ]
    return {"head": list(run.rollouts), "body": body, "total": total}


def _total(counts: Iterable[int | None]) -> int | None:
    """Sum of counts; None where one is not known."""
    found = list(counts)
    return None if None in found else sum(x or 0 for x in found)


def _pseudo(facts: Mapping[str, Any] | None) -> dict[str, str] | None:
    if facts is None or not facts["n"]:
        return None
    if facts["successes"] is None:
        mean = facts.get("return")
        return {
            "rate": "" if mean is None else f"return {mean:.4g}",
            "count": f"{facts['n']} episodes",
            "steps": f"{facts['steps']:,}",
        }
    return {
        "rate": text.rate(facts["successes"] / facts["n"]),
        "count": f"{facts['successes']} / {facts['n']}",
        "steps": f"{facts['steps']:,}",
    }


def rounds(run: RunFiles) -> list[dict[str, Any]]:
    """Per generalist: success on selection starts before and after every round, and what was
    visited.
    """
    out = []
    for row, found in run.rounds.items():
        lines = []
        for r in found:
            tries = [
                (
                    sum(c.get("kept", c["successes"]) for c in t.values()),
                    sum(c["n"] for c in t.values()),
                )
                for t in r.get("tries", ())
            ]
            lines.append(
                {
                    "name": f"round {r['round']}" if r["round"] else "before",
                    "mean": _judged(r),
                    "gain": f"{text.signed(r['gain'])} {text.signed_interval(r['interval'])}"
                    if "gain" in r
                    else "",
                    "kept": r["kept"],
                    "tries": ", ".join(f"{kept} / {n}" for kept, n in tries),
                }
            )
        out.append({"row": row, "lines": lines})
    return out


def _judged(found: Mapping[str, Any]) -> str:
    """What selection starts said of a round: success, and returns of what has none."""
    parts = [] if found["selection"] is None else [text.rate(found["selection"], 3)]
    if found.get("return") is not None:
        parts.append(f"return {found['return']:.4g}")
    return ", ".join(parts) or "-"


def provenance(run: RunFiles) -> dict[str, Any]:
    """Seeds, versions, machine and times."""
    found = run.manifest.get("stages") or {}
    stages = dict(
        sorted(found.items(), key=lambda item: item[1].get("finished", ""))
    )  # the order they ran in
    seconds = {name: float(record.get("seconds") or 0) for name, record in stages.items()}
    longest = max(seconds.values(), default=0) or 1
    lines = [
        {
            "name": name,
            "time": text.duration(seconds[name]),
            "share": f"{100 * seconds[name] / longest:.1f}",
            "state": str(record.get("state", "?")),
        }
        for name, record in stages.items()
    ]
    seeds = {r.environment: r.seeds for e in run.evaluations.values() for r in e.rows}
    machine = {
        k.replace("_", " "): v
        for k, v in (run.manifest.get("machine") or {}).items()
        if v is not None
    }
    return {
        "stages": lines,
        "total": text.duration(sum(seconds.values())) if stages else "",
        "machine": machine,
        "packages": run.manifest.get("packages") or {},
        "seed": run.manifest.get("seed", run.settings.get("seed")),
        "evaluation_seed": (run.settings.get("evaluation") or {}).get("seed"),
        "version": (run.manifest.get("packages") or {}).get("alltrades", ""),
        "seeds": [
            {
                "name": name,
                "n": len(own),
                "first": ", ".join(map(str, own[:3])) + (", ..." if len(own) > 3 else ""),
            }
            for name, own in seeds.items()
        ],
    }


def settings_lines(run: RunFiles) -> list[tuple[str, str]]:
    """(line, where its value comes from): "" for a default."""
    lines = []
    for line in run.settings_text.splitlines():
        value, mark, origin = line.rpartition("  # ")
        lines.append((value, origin) if mark else (line, ""))
    return lines


def videos(run: RunFiles) -> list[dict[str, str]]:
    """Videos as data URLs."""
    out = []
    for name, path in run.ordered(run.videos):
        size, kind = path.stat().st_size, VIDEO_TYPES[path.suffix.lower()]
        fits = size <= LARGEST_VIDEO
        note = (
            ""
            if fits
            else f"left out: {path.name} has {size / 2**20:.0f} MiB, more than "
            f"{LARGEST_VIDEO // 2**20}"
        )
        out.append(
            {
                "name": name,
                "tag": "img" if kind.startswith("image") else "video",
                "note": note,
                "url": _data_url(path, kind) if fits else "",
            }
        )
    return out


def _data_url(path: Path, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
