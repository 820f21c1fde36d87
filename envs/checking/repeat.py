"""Whether an episode is a function of its seed and its actions."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from alltrades.data.fields import Observation
from alltrades.envs.adapter import EnvAdapter, StepResult
from alltrades.envs.spec import EnvSpec
from alltrades.system.streams import stream, stream_seed

HELD = 4  # steps that a random action lasts
KEPT = 20  # observations that are kept as they were
Beat = Callable[[str], None]  # told what is done next


@dataclass
class Trace:
    """What an episode showed: first observation, then of every step what it returned.

    returned: the first observations as they were, before they became fields.
    """

    seed: int
    first: Observation
    steps: list[StepResult] = field(default_factory=list)
    returned: list[Any] = field(default_factory=list)


def check_seed(spec: EnvSpec, number: int) -> int:
    """A start of 63 bits that no stage of a run uses."""
    return stream_seed(number, "check", spec.id)


def play(adapter: EnvAdapter, seed: int, most: int, beat: Beat) -> Trace:
    """An episode of random actions, a function of the seed, of at most `most` steps."""
    spec = adapter.spec
    beat(f"reset of the episode with seed {seed}")
    trace, rng = Trace(seed, adapter.reset(seed)), stream(seed, "check actions")
    trace.returned.append(copy.deepcopy(adapter.returned))
    low, high = spec.action.box
    action = np.zeros(spec.action_dim)
    while len(trace.steps) < most and not (trace.steps and trace.steps[-1].done):
        if len(trace.steps) % HELD == 0:
            action = rng.uniform(low, high)
        beat(f"step {len(trace.steps)} of the episode with seed {seed}")
        trace.steps.append(adapter.step(action))
        if len(trace.returned) < KEPT:
            trace.returned.append(copy.deepcopy(adapter.returned))
    return trace


def difference(a: Trace, b: Trace) -> str | None:
    """The first thing in which two episodes of one seed differ, in words."""
    found = between(a.first, b.first)
    if found is not None:
        return f"{found} at the start"
    for i, (x, y) in enumerate(zip(a.steps, b.steps)):
        found = between(x.observation, y.observation)
        if found is None and x.reward != y.reward:
            found = f"the reward is {x.reward:g}, then {y.reward:g}"
        if found is None and (x.done, x.success) != (y.done, y.success):
            found = "one is over or has succeeded, and the other not"
        if found is not None:
            return f"{found} in step {i + 1}"
    return None


def between(a: Observation, b: Observation) -> str | None:
    """The first number or text in which two observations differ, in words."""
    for name, value in a.items():
        other = b[name]
        if isinstance(value, str) or isinstance(other, str):
            if value != other:
                return f"'{name}' is {str(value)[:30]!r}, then {str(other)[:30]!r}"
            continue
        apart = np.flatnonzero(value.ravel() != other.ravel())
        if len(apart):
            i = int(apart[0])
            return f"'{name}' is {value.ravel()[i]:.9g} at entry {i}, then {other.ravel()[i]:.9g}"
    return None
