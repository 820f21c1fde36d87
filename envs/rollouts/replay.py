"""An episode played back from its seed and actions, to draw what its cameras would have seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from alltrades.data.fields import Observation
from alltrades.envs.adapter import EnvAdapter, EnvironmentFailure

DIFFERS = "differs"  # kind of an `EnvironmentFailure`: the episode is another than the recorded one


@dataclass(frozen=True)
class Replay:
    """Play an episode back in a lane.

    Attributes:
        lane, environment, seed: where.
        actions: (T, A) as executed.
        recorded: fields of the environment itself as they were recorded, (T, *shape) or a text:
            every step must repeat them, bit for bit.
        fields: names of what is answered: what cameras make, and parts of states.
        steps: numbers of the steps that are answered, ascending.
        place: an environment that can show an observation at once (`place(observation)`) is not
            stepped: what another simulator recorded is drawn too, within a rounding.
    """

    lane: int
    environment: str
    seed: int
    actions: np.ndarray
    recorded: Mapping[str, np.ndarray | str]
    fields: tuple[str, ...]
    steps: tuple[int, ...]
    place: bool = True


def play(
    adapter: EnvAdapter, replay: Replay, beat: Callable[[int], None] = lambda step: None
) -> Observation:
    """{field: (steps, *shape)} of a replay.

    `beat` is called with the number of each step. Raises EnvironmentFailure of the kind `DIFFERS`
    where the episode is another.
    """
    wanted, frames = set(replay.steps), list[Observation]()
    images = [name for name in replay.fields if name in adapter.images]
    first = adapter.reset(replay.seed, ())
    with adapter.randomness:
        for step, seen in _states(adapter, replay, first):
            beat(step)
            if step in wanted:
                drawn = adapter.look(images) if images else {}
                frames.append({name: (seen | drawn)[name] for name in replay.fields})
    return {name: np.stack([frame[name] for frame in frames]) for name in replay.fields}


def _states(
    adapter: EnvAdapter, replay: Replay, seen: Observation
) -> Iterator[tuple[int, Observation]]:
    """Step by step, what the environment itself shows."""
    if replay.place and hasattr(adapter.built, "place"):
        for step in replay.steps:
            recorded = {name: _at(v, step) for name, v in replay.recorded.items()}
            yield step, adapter.place(recorded)
        return
    for step in range(replay.steps[-1] + 1):
        if step:
            seen = adapter.step(replay.actions[step - 1], ()).observation
        _check(replay, step, seen)
        yield step, seen


def _check(replay: Replay, step: int, seen: Observation) -> None:
    for name, recorded in replay.recorded.items():
        mine, theirs = seen[name], _at(recorded, step)
        if isinstance(mine, str) or isinstance(theirs, str):
            same, what = mine == theirs, f"'{name}' is {str(mine)[:30]!r}, recorded {theirs!r:.30}"
        else:
            apart = np.flatnonzero(mine.ravel() != theirs.ravel())
            i = int(apart[0]) if len(apart) else 0
            same = not len(apart)
            what = f"'{name}' is {mine.ravel()[i]:.9g} at entry {i}, recorded"
            what += f" {theirs.ravel()[i]:.9g}"
        if not same:
            raise EnvironmentFailure(replay.environment, replay.seed, step, what, DIFFERS)


def _at(value: np.ndarray | str, step: int) -> np.ndarray | str:
    return value if isinstance(value, str) else value[step]


def steps_of(length: int, steps: Sequence[int] | None) -> tuple[int, ...]:
    """The steps that are drawn of an episode of `length`; None: all."""
    return tuple(range(length)) if steps is None else tuple(sorted(set(steps)))
