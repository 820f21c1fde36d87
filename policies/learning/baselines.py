"""Chunks that need no learning: what a policy must be better than, open loop."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from alltrades.data.interface import Interface
from alltrades.data.steps import Steps
from alltrades.policies.learning.recorded import Recorded
from alltrades.policies.model.statistics import state_spread

HOLD, STATE, MEAN, NEIGHBOUR = (
    "hold the last action",
    "action = state",
    "mean action",
    "nearest neighbour",
)
MOST_NEIGHBOURS = 20_000  # steps among which the nearest is looked for, evenly spread
BLOCK = 2**22  # distances at once


@dataclass
class Guesses:
    """Trivial chunks at the states of `Recorded`.

    Attributes:
        chunks: by baseline, arrays that broadcast to (n, H, A).
        left_out: baselines that this environment has not, and why.
        searched: steps among which the nearest is looked for.
    """

    chunks: dict[str, np.ndarray]
    left_out: dict[str, str] = field(default_factory=dict)
    searched: int = 0


def baselines(there: Recorded, held_out: Steps, learned: Steps, interface: Interface) -> Guesses:
    """What holding the last action, commanding the present state, the mean action, and the chunk
    that followed the nearest state of the episodes that were learned from would do.

    States are compared in all their numbers that move, each over its deviation; images and texts
    are not looked at. O(n min(S, MOST_NEIGHBOURS) D) for S steps that were learned from.
    """
    found = Guesses({HOLD: there.last[:, None]})
    states = [
        name
        for name, f in interface.of_kind("state").items()
        if all(
            name in steps.observation and steps.observation[name].shapes == {f.shape}
            for steps in (held_out, learned)
        )
    ]
    numbers = commanded(interface, states)
    if isinstance(numbers, str):
        found.left_out[STATE] = numbers
    else:
        parts = [
            held_out.observation[name].take(there.rows, interface.observation[name].shape)[:, d]
            for name, d in numbers
        ]
        found.chunks[STATE] = np.stack(parts, 1)[:, None]
    found.chunks[MEAN] = there.mean[None, None]
    count = min(len(learned), MOST_NEIGHBOURS)
    searched = np.unique(np.linspace(0, len(learned) - 1, count).round().astype(int))
    known, asked = _normalised(there, held_out, learned, interface, states, searched)
    if not known.shape[1]:
        found.left_out[NEIGHBOUR] = "no state that moves; images and texts are not compared"
        return found
    nearest = searched[_nearest(known, asked)]
    index = nearest[:, None] + np.arange(there.chunks.shape[1])
    last = learned.ends[learned.episode_of_step[nearest]] - 1  # held after the end of an episode
    index = np.minimum(index, last[:, None])
    found.chunks[NEIGHBOUR] = learned.action.take(index, interface.action_dim)
    found.searched = len(searched)
    return found


def commanded(interface: Interface, states: list[str]) -> list[tuple[str, int]] | str:
    """The number of a state field that each action commands, as (field, place); or why that cannot
    be told. Actions are found by their names; without names on both sides, the state of as many
    numbers is taken, where there is one such, or one called "state". Units must not differ.
    """
    action, fields = interface.action, {name: interface.observation[name] for name in states}
    named = [(n, d, name) for n, f in fields.items() for d, name in enumerate(f.names or ())]
    places = [[(n, d) for n, d, name in named if name == own] for own in action.names or ()]
    if places and all(len(p) == 1 for p in places):
        found = [p[0] for p in places]
    else:
        unnamed = [
            n
            for n, f in fields.items()
            if f.shape == (interface.action_dim,) and not (f.names and action.names)
        ]
        fitting = unnamed if len(unnamed) == 1 else [n for n in unnamed if n == "state"]
        if not fitting:
            return "no state has the actions' names, nor is there one of their size without names"
        found = [(fitting[0], d) for d in range(interface.action_dim)]
    for place, (name, d) in enumerate(found):
        units, others = action.units, fields[name].units
        if units and others and units[place] != others[d]:
            return f"'{name}' is in {others[d]}, the action in {units[place]}"
    return found


def _normalised(
    there: Recorded,
    held_out: Steps,
    learned: Steps,
    interface: Interface,
    states: list[str],
    searched: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers that move, each over its deviation, of the steps that are searched (M, D) and of
    those that are judged (n, D).
    """
    known, asked = [np.zeros((len(searched), 0))], [np.zeros((len(there.rows), 0))]
    for name in states:
        f = interface.observation[name]
        found = state_spread(learned.observation[name].resized(f.shape), f)
        moves = ~found.still
        for steps, rows, out in ((learned, searched, known), (held_out, there.rows, asked)):
            values = steps.observation[name].take(rows, f.shape).astype(np.float64)
            out.append((values - found.mean)[:, moves] / found.std[moves])
    return np.concatenate(known, 1), np.concatenate(asked, 1)


def _nearest(known: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """(n,) row of `known` (M, D) that is nearest to each of `asked` (n, D)."""
    length = np.square(known).sum(1)
    size = max(1, BLOCK // len(known))
    return np.concatenate(
        [(length - 2 * asked[i : i + size] @ known.T).argmin(1) for i in range(0, len(asked), size)]
    )
