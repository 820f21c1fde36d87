"""What an environment and its registration declare, held against each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from alltrades.data.fields import Observation
from alltrades.envs.checking.findings import Finding
from alltrades.envs.spaces import bounds, integers, leaves
from alltrades.envs.spec import EnvSpec

APART = 0.01  # share by which two rates may differ
LOST = 1e-3  # share of what a number varies by, that float32 may be off by
SLACK = 1e-6  # share of a bound by which values may pass it: rounding


def declared(env: Any, spec: EnvSpec) -> Iterator[Finding]:
    """Of an instance: control rate, time limit, actions."""
    yield from _rate(env, spec)
    limit = getattr(getattr(env, "spec", None), "max_episode_steps", None)
    if limit is None or getattr(env, "limit_assumed", False):
        yield Finding(
            "note", f"it declares no time limit; episodes are cut after {spec.max_steps} steps"
        )
    elif limit != spec.max_steps:
        yield Finding(
            "note", f"its own time limit is {limit} steps; episodes are cut after {spec.max_steps}"
        )
    space: Any = getattr(env, "action_space", None)
    if getattr(space, "shape", None) is not None:
        yield from _actions(space, spec)


def _rate(env: Any, spec: EnvSpec) -> Iterator[Finding]:
    said = (getattr(env, "metadata", None) or {}).get("render_fps")
    mine = spec.control_hz
    if not isinstance(said, int | float) or said <= 0:
        yield Finding(
            "note",
            f"its metadata declare no render_fps; it is taken to run at {mine:g} Hz (control_hz)",
        )
    elif mine is not None and abs(said - mine) > APART * said:
        yield Finding(
            "warning",
            f"its metadata say {said:g} Hz (render_fps) and its registration {mine:g} Hz "
            "(control_hz); expected the same; correct one of them",
        )


def _actions(space: Any, spec: EnvSpec) -> Iterator[Finding]:
    low, high = bounds(space)
    mine = spec.action.box
    if len(low) != spec.action_dim:
        yield Finding(
            "error",
            f"its action space has {len(low)} numbers and its registration {spec.action_dim}; "
            "expected the same; correct one of them",
        )
        return
    beyond = np.flatnonzero((mine[0] < low - SLACK) | (mine[1] > high + SLACK))
    if len(beyond):
        i = int(beyond[0])
        yield Finding(
            "warning",
            f"action {i} is registered as {mine[0][i]:g} to {mine[1][i]:g} and its space is "
            f"{low[i]:g} to {high[i]:g}; expected a box inside it",
        )
    for still in np.flatnonzero(mine[0] == mine[1]):
        words = f"action {still} can only be {mine[0][still]:g}: nothing can be learned"
        yield Finding("warning", words)
    if integers(space):
        yield Finding("note", "its actions are integers; what a policy says is rounded")


def outside(seen: Observation, spec: EnvSpec) -> str | None:
    """The first number of an observation beyond its declared bounds, in words."""
    for name, f in spec.observation.items():
        values = seen[name]
        if f.kind != "state" or isinstance(values, str):
            continue
        for bound, sign, word in ((f.low, -1.0, "below"), (f.high, 1.0, "above")):
            if bound is None:
                continue
            limit = np.array(bound, float)
            beyond = sign * (values - limit) > SLACK * np.maximum(1.0, abs(limit))
            if beyond.any():
                i = int(beyond.argmax())
                return f"'{name}' is {values[i]:g} at entry {i}, {word} its bound {limit[i]:g}"
    return None


def imprecise(returned: Sequence[Any], spec: EnvSpec) -> Iterator[Finding]:
    """Numbers of what an environment returned and declares to be float32, which does not hold their
    changes: large ones that vary little, such as coordinates on a map or times of day.
    """
    for name, f in spec.observation.items():
        if f.kind != "state" or f.dtype == "float64":
            continue
        alone = len(spec.observation) == 1
        found = [dict(leaves(r)).get(name) if isinstance(r, Mapping) else r for r in returned]
        if not alone and not all(isinstance(r, Mapping) for r in returned):
            continue
        values = [np.ravel(v) for v in found if v is not None]
        if not values or any(v.shape != f.shape or v.dtype != np.float64 for v in values):
            continue
        rows = np.stack(values)
        off = abs(rows - rows.astype(np.float32)).max(0)
        varies = np.ptp(rows, axis=0)
        for i in np.flatnonzero((varies > 0) & (off > LOST * varies))[:1]:
            yield Finding(
                "warning",
                f"observation '{name}' at entry {i} is {rows[0][i]:.9g} and varies by "
                f"{varies[i]:.2g}, of which float32 is off by up to {off[i]:.2g}; expected its "
                "space to say float64, as it returns; or subtract a constant in the environment",
            )
