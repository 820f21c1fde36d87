"""The tables that commands end with: success per environment and row, paired differences, advice. Plain text everywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from alltrades.envs.evaluation import Evaluation


def success_lines(evaluations: Mapping[str, Evaluation], limits: Sequence[int] = ()) -> list[str]:
    """Aligned lines: environment x row with rate and Wilson 95 % interval, the mean, and the mean at shorter limits."""
    rows = list(evaluations.values())
    if not rows:
        return []
    cells = [["environment (n)", *(e.name + (" *" if e.used_success_signal else "") for e in rows)]]
    for i, first in enumerate(rows[0].rows):
        line = [f"{first.environment} ({first.n})"]
        for e in rows:
            r = e.rows[i]
            line.append(_cell(r.successes / r.n, r.interval))
        cells.append(line)
    cells.append(["mean", *(_cell(*e.mean()) for e in rows)])
    for limit in limits:
        cells.append([f"mean within {limit} steps", *(_cell(*e.mean(limit)) for e in rows)])
    widths = [max(len(line[c]) for line in cells) for c in range(len(cells[0]))]
    lines = ["  ".join(text.ljust(w) for text, w in zip(line, widths)).rstrip() for line in cells]
    lines.insert(1, "  ".join("-" * w for w in widths))
    lines.insert(len(rows[0].rows) + 2, lines[1])
    if any(e.used_success_signal for e in rows):
        lines.append("* training used the simulator's success signal")
    return lines


def paired_lines(comparison: Mapping[str, Any]) -> list[str]:
    """One line per pair: mean difference over environments, 95 % interval, verdict."""
    lines = []
    for pair in comparison["pairs"]:
        low, high = pair["interval"]
        seeds = f", per training seed {' '.join(f'{s:+.3f}' for s in pair['seeds'])}" if pair.get("seeds") else ""
        lines.append(f"{pair['a']} - {pair['b']}: {pair['mean']:+.3f} [{low:+.3f}, {high:+.3f}] {pair['verdict']} "
                     f"(n = {pair['n']} common starts{seeds})")
    return lines


def advice_lines(advice: Mapping[str, Any]) -> list[str]:
    """One line per environment."""
    return [f"{name}: {facts['line']}" for name, facts in advice.items()]


def show_result(evaluations: Mapping[str, Evaluation], comparison: Mapping[str, Any], advice: Mapping[str, Any],
                limits: Sequence[int] = ()) -> None:
    """Print what there is of the three."""
    blocks = (("success, 95 % intervals", success_lines(evaluations, limits)), ("paired differences", paired_lines(comparison)),
              ("advice", advice_lines(advice)))
    for title, lines in blocks:
        if lines:
            print(f"\n{title}\n" + "\n".join(f"  {line}" for line in lines))


def _cell(rate: float, interval: tuple[float, float]) -> str:
    return f"{rate:.2f} [{interval[0]:.2f}, {interval[1]:.2f}]"
