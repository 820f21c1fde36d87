"""How far off the eyes are on what they have not seen, and what would help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from alltrades.data.steps import Steps
from alltrades.policies.learning.batches import TrainingData
from alltrades.policies.learning.eyes import Reader

START = "start"  # under which random starts are recorded
STARTS, EPISODES = "starts", "episodes"  # where frames are from; how errors of them are called
JUDGED = 2_000  # frames of an environment and of each kind on which errors are taken, about
SPARE = 1.3  # held-out error over that of training, from which more of a kind help
AXES = ("x", "y", "z")


def judged(
    reader: Reader,
    data: TrainingData,
    steps: Steps,
    taught: np.ndarray,
    unseen: np.ndarray,
    rollouts: Mapping[str, int],
) -> dict[str, Any]:
    """By environment, root mean squared errors of each number on held-out frames and on those that
    were learned from, in units: of all, and of random starts and of whole episodes by themselves
    where there are both; and how many of each there were.

    Args:
        taught: (S,) which steps were learned from. unseen: (S,) which were held out.
        rollouts: of each teacher that were learned from, by environment; none where there are none.
    """
    start = (steps.source == START)[steps.episode_of_step]
    kinds = {STARTS: start, EPISODES: ~start}
    held, own = (
        {kind: _errors(reader, data, steps, chosen & mine) for kind, mine in kinds.items()}
        for chosen in (unseen, taught)
    )
    out = {}
    for name in reader.layout.ids:
        labels, (seen, least), (learned, most) = (
            reader.names(name),
            *(_together([part[kind][name] for kind in kinds]) for part in (held, own)),
        )
        numbers = []
        for i in np.flatnonzero(np.isfinite(least)):
            label, unit = labels[i]
            of = {"held_out": float(least[i]), "trained": float(most[i])}
            number = {"name": label, "unit": unit, **of}
            for kind in kinds:
                pair = [float(part[kind][name][1][i]) for part in (held, own)]
                if np.isfinite(pair).all():
                    number[kind] = dict(zip(of, pair))
            numbers.append(number)
        out[name] = {
            "frames": learned,
            "held_out_frames": seen,
            "rollouts": rollouts.get(name, 0),
            "numbers": numbers,
        }
    return out


def _errors(
    reader: Reader, data: TrainingData, steps: Steps, chosen: np.ndarray
) -> dict[str, tuple[int, np.ndarray]]:
    """By environment, how many frames are chosen, and errors (D,) on some, evenly spread."""
    of_step = steps.environment[steps.episode_of_step]
    mine = {name: np.flatnonzero(chosen & (of_step == name)) for name in reader.layout.ids}
    some = [rows[:: -(-len(rows) // JUDGED) or 1] for rows in mine.values()]
    found = reader.distances(data, np.concatenate(some))
    return {name: (len(rows), found[name]) for name, rows in mine.items()}


def _together(parts: Sequence[tuple[int, np.ndarray]]) -> tuple[int, np.ndarray]:
    """The same of several kinds of frames together."""
    count = sum(n for n, _ in parts)
    squares = [n * np.square(errors) for n, errors in parts if n]
    return count, np.sqrt(np.sum(squares, axis=0) / count) if count else parts[0][1]


def eye_lines(found: Mapping[str, Any]) -> list[str]:
    """What the eyes tell of every environment, in words: numbers of one place together."""
    lines = []
    for name, facts in found.items():
        groups: dict[tuple[str, str], list[float]] = {}
        for number in facts["numbers"]:
            head, _, axis = number["name"].rpartition("_")
            label = head if head and axis in AXES else number["name"]
            groups.setdefault((label, number["unit"]), []).append(number["held_out"])
        said = [
            f"{label} {float(np.sqrt(np.sum(np.square(values)))):.2g}{unit and ' ' + unit}"
            for (label, unit), values in groups.items()
        ]
        line = f"{name}: held-out error {', '.join(said[:6])}"
        if len(said) > 6:
            line += f" and {len(said) - 6} more"
        helps = [words for kind, words in _remedies(facts).items() if _spare(facts, kind) > SPARE]
        if helps:
            line += f"; more {' and '.join(helps)} would help"
        lines.append(line)
    return lines


def _remedies(facts: Mapping[str, Any]) -> dict[str, str]:
    """What there may be more of, by the kind of frames that it adds to."""
    count = facts["rollouts"]
    episodes = f"rollouts (eyes.rollouts above {count})" if count else "demonstrations"
    return {EPISODES: episodes, STARTS: "starts (eyes.starts)"}


def _spare(facts: Mapping[str, Any], kind: str) -> float:
    """Mean ratio of held-out errors to those of training on frames of a kind; 0 for none."""
    pairs = [number[kind] for number in facts["numbers"] if kind in number]
    ratios = [p["held_out"] / max(p["trained"], 1e-12) for p in pairs]
    return float(np.mean(ratios)) if ratios else 0.0
