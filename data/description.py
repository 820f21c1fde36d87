"""What a store holds, in lines for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from alltrades.data.columns import INTERVENTIONS, UNMARKED
from alltrades.data.contents import Contents
from alltrades.data.episode import UNKNOWN
from alltrades.data.fields import Field
from alltrades.data.interface import Interface

SHOWN = 6  # numbers or names of a field, and texts, that are shown
LETTERS = 60  # of a text
ORIGIN = 300  # letters of a fact about the origin


def of_environment(interface: Interface, contents: Contents, mine: np.ndarray) -> list[str]:
    """Lines about an environment's episodes `mine` (n,): its fields, actions and sources."""
    rate = "rate unknown" if interface.control_hz is None else f"{interface.control_hz:g} Hz"
    limit = "" if interface.max_steps is None else f", time limit {interface.max_steps} steps"
    count = f"{len(mine)} episodes, {int(contents.length[mine].sum())} steps"
    lines = [f"{interface.id}: {count}, {rate}{limit}"]
    for name, f in interface.observation.items():
        lines.append(f"  {name}: {_field(f)}")
        if f.kind == "text" and len(mine):
            lines[-1] += _texts(contents.text(name, mine))
    lines.append(f"  action: {_action(interface)}")
    return [*lines, *(f"  {line}" for line in of_sources(contents, mine))]


def _interventions(contents: Contents, these: np.ndarray) -> str:
    """How much of some episodes a person did in a policy's place."""
    counts = contents.columns.get(INTERVENTIONS)
    marked = [] if counts is None else these[counts[these] != UNMARKED]
    if counts is None or not len(marked):
        return ""
    taken, steps = counts[marked], int(contents.length[marked].sum())
    return (
        f", a person intervened in {(taken > 0).sum()} of {len(marked)}, at {taken.sum()} of "
        f"{steps} steps"
    )


def of_origin(provenance: Mapping[str, Any]) -> Iterator[str]:
    """Lines about where episodes come from; commit.json has the whole of what is long."""
    for key, value in provenance.items():
        said = str(value)
        yield f"{key}: {said if len(said) <= ORIGIN else said[:ORIGIN] + ' ...'}"


def of_sources(contents: Contents, mine: np.ndarray) -> Iterator[str]:
    """Lines about some episodes, one per source."""
    c = contents.columns
    for source in sorted(set(c["source"][mine].tolist())):
        these = mine[c["source"][mine] == source]
        without = int((~c["has_actions"][these]).sum())
        yield (
            f"from {source}: {len(these)} episodes, "
            f"{contents.length[these].min()}-{contents.length[these].max()} steps, "
            + _outcomes(c["first_success"][these], c["return"][these])
            + (f", {without} without actions" if without else "")
            + _interventions(contents, these)
        )


def _outcomes(first_success: np.ndarray, returns: np.ndarray) -> str:
    """Successes where some episode tells of them, else returns."""
    told = first_success != UNKNOWN
    if told.any():
        unknown = f", {(~told).sum()} do not say" if not told.all() else ""
        return f"{(first_success > 0).sum()} marked successful{unknown}"
    if not returns.any():
        return "success unknown"
    low, high = returns.min(), returns.max()
    return f"success unknown, returns {low:.4g} to {high:.4g} (mean {returns.mean():.4g})"


def _field(f: Field) -> str:
    said = f"{f} {f.dtype}" if f.kind == "state" else str(f)
    if f.low is not None and f.high is not None:
        said += f", {_numbers(f.low)} to {_numbers(f.high)}"
    return said + _names(f.names, f.units)


def _action(interface: Interface) -> str:
    action = interface.action
    if not action.size:
        return "none recorded"
    box = "box unknown"
    if action.low is not None and action.high is not None:
        box = f"box {_numbers(action.low)} to {_numbers(action.high)}"
    shape = "" if action.image is None else f" (an image of {' x '.join(map(str, action.image))})"
    return f"{action.size} numbers{shape}, {box}{_names(action.names, action.units)}"


def _names(names: Sequence[str] | None, units: Sequence[str] | None) -> str:
    if names is None and units is None:
        return ""
    count = len(names or units or ())
    words = [" ".join(x[i] for x in (names, units) if x is not None) for i in range(count)]
    return f"; {_some(words)}"


def _numbers(values: Sequence[float]) -> str:
    if len(set(values)) == 1:
        return f"{values[0]:g}"
    return f"[{_some([f'{v:g}' for v in values])}]"


def _texts(texts: np.ndarray) -> str:
    distinct = list(dict.fromkeys(texts))
    shown = [repr(t if len(t) <= LETTERS else t[:LETTERS] + "...") for t in distinct]
    return f", {len(distinct)} distinct: {_some(shown)}"


def _some(words: Sequence[Any]) -> str:
    more = f" and {len(words) - SHOWN} more" if len(words) > SHOWN else ""
    return ", ".join(words[:SHOWN]) + more
