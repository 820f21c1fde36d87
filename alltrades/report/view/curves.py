"""Numbers of an episode as lines of plots: few points, few digits, nothing that stands out lost."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from alltrades.data.checks.subject import ACTION
from alltrades.report.view.episodes import Viewed

if TYPE_CHECKING:
    from alltrades.report.view.predictions import Chunks

LINES = 12  # of one plot
FIELD = 48  # numbers of a field that are drawn
ALL = 96  # of all fields
PREDICTED = 8  # actions that stand beside predicted ones, each in its own plot
POINTS = (32, 600)  # of a line, at least and at most
DIGITS = 4  # of a value, relative to what it ranges over


def plots(episode: Viewed, chunks: Chunks | None, most_numbers: int) -> dict[str, Any]:
    """The plots of an episode as plain data: `plots`, each with a title and lines; `every`, of how
    many steps two points are the least and the greatest value (1: every step is a point); `at`,
    where chunks begin; `note`, what is left out. At most about `most_numbers` numbers beside the
    chunks, or 32 points of a line.
    """
    shown, left_out = _chosen(episode, chunks is not None)
    count = sum(len(dims) for dims in shown.values()) + len(episode.outcome)
    points = int(np.clip(most_numbers // max(count, 1), *POINTS))
    every = 1 if episode.length <= points else math.ceil(episode.length / (points // 2))
    found: list[dict[str, Any]] = []
    for name, dims in shown.items():
        lines = [
            {"name": episode.labels[name][d], "y": line(episode.numbers[name][:, d], every)}
            for d in dims
        ]
        if name == ACTION and chunks is not None:
            found += [
                {"title": f"action {one['name']}", "lines": [{**one, "name": "recorded"}]}
                | {"chunks": [_digits(c, _unit(c)) for c in _within(chunks, d, episode.length)]}
                for d, one in zip(dims, lines)
            ]
            continue
        for k in range(0, len(lines), LINES):
            part = lines[k : k + LINES]
            more = f" {k} to {k + len(part) - 1}" if len(lines) > LINES else ""
            found.append({"title": name + more, "lines": part})
    for name, values in episode.outcome.items():
        found.append({"title": name, "lines": [{"name": name, "y": line(values, every)}]})
    at = [] if chunks is None else chunks.at.tolist()
    return {"plots": found, "at": at, "every": every, "note": "; ".join(left_out)}


def _chosen(episode: Viewed, predicted: bool) -> tuple[dict[str, range], list[str]]:
    """The numbers of each field that are drawn, actions first, and what is left out, in words."""
    names = sorted(episode.numbers, key=lambda name: name != ACTION)
    shown, left_out, room = {}, [], ALL
    for name in names:
        size = episode.numbers[name].shape[1]
        most = PREDICTED if predicted and name == ACTION else FIELD
        shown[name] = range(min(size, most, room))
        room -= len(shown[name])
        if len(shown[name]) < size:
            left_out.append(f"{len(shown[name])} of {size} numbers of {name}")
    return {name: dims for name, dims in shown.items() if dims}, left_out


def line(values: np.ndarray, every: int) -> list[float | None]:
    """Values (T,) as they are, or of each so many steps the least and the greatest, in the order in
    which they came; None where one is not finite.
    """
    values = np.where(np.isfinite(values), values, np.nan).astype(np.float64)
    unit = _unit(values)
    if every > 1:
        short = -len(values) % every
        parts = np.concatenate([values, np.full(short, np.nan)]).reshape(-1, every)
        low, high = np.fmin.reduce(parts, axis=1), np.fmax.reduce(parts, axis=1)
        first = np.where(np.isnan(parts), np.inf, parts).argmin(1)
        last = np.where(np.isnan(parts), -np.inf, parts).argmax(1)
        pairs = np.where(first <= last, (low, high), (high, low))  # (2, parts)
        values = pairs.T.reshape(-1)
    return _digits(values, unit)


def _unit(values: np.ndarray) -> int:
    """Decimals that tell values apart; negative ones round to tens."""
    there = values[np.isfinite(values)]
    width = float(np.ptp(there)) if there.size else 0.0
    width = width or float(np.abs(there).max(initial=0.0))
    return DIGITS - math.floor(math.log10(width)) if 0 < width < math.inf else DIGITS


def _digits(values: np.ndarray, decimals: int) -> list[float | None]:
    rounded = [round(float(v), decimals) for v in values]
    return [v if math.isfinite(v) else None for v in rounded]


def _within(chunks: Chunks, dimension: int, length: int) -> list[np.ndarray]:
    """One action of each chunk, as far as the episode goes."""
    return [c[: length - at, dimension] for at, c in zip(chunks.at, chunks.values)]
