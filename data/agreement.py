"""Whether what is recorded is what an environment is said to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from alltrades.data.actions import ActionSpec
from alltrades.data.fields import Field
from alltrades.data.interface import Interface
from alltrades.data.rows import Rows

SLACK = 0.01  # of a box's width, by which recorded actions may lie outside


def other_fields(found: Mapping[str, Field], expected: Mapping[str, Field]) -> str | None:
    """What tells fields from those that are expected, in words: "'state' is a state of 4 numbers,
    not a state of 3 numbers"; None where they are the same.
    """
    for name, f in expected.items():
        if name not in found:
            return f"no field '{name}' ({f}) among {', '.join(found)}"
        if not f.same(found[name]):
            return f"'{name}' is {_article(found[name])}, not {_article(f)}"
    for name, f in found.items():
        if name not in expected:
            return f"a field '{name}' ({f}) beside {', '.join(expected)}"
    return None


def other_numbers(found: Interface, expected: Interface) -> str | None:
    """The same of action sizes and control rates, where both are known; an action size of 0 is
    not.
    """
    sizes = found.action.size, expected.action.size
    if 0 not in sizes and sizes[0] != sizes[1]:
        return f"actions have {sizes[0]} numbers, not {sizes[1]}"
    rate, wanted = found.control_hz, expected.control_hz
    if rate and wanted and not np.isclose(rate, wanted, rtol=0.01):
        return f"it runs at {rate:g} Hz, not {wanted:g}"
    return None


def united(first: Interface, second: Interface) -> Interface:
    """What either knows of one environment; what both know is the first's.

    Raises ValueError where they have other fields, action sizes or rates.
    """
    wrong = other_fields(first.observation, second.observation) or other_numbers(first, second)
    if wrong is not None:
        raise ValueError(wrong)
    known = first.action.bounded or (first.action.size and not second.action.bounded)
    return replace(
        first,
        action=first.action if known else second.action,
        control_hz=first.control_hz or second.control_hz,
        max_steps=first.max_steps or second.max_steps,
    )


def outside_box(
    actions: Rows, spec: ActionSpec, known: tuple[np.ndarray, np.ndarray] | None = None
) -> str | None:
    """How recorded actions (N, A) leave a box, in words: the share of the steps, the worst
    dimension and its values; None where they are inside, but for SLACK. Read in pieces, and only
    where `known`, their least and largest values (A,), are not given or lie outside.
    """
    low, high = spec.box
    if not spec.bounded:
        return None
    width = np.where(np.isfinite(high - low), high - low, 0.0)
    for bound in (low, high):  # of a half-open box
        width = np.where((width == 0) & np.isfinite(bound), np.maximum(np.abs(bound), 1.0), width)
    floor, ceiling = low - SLACK * width, high + SLACK * width
    if known is not None and len(known[0]) == spec.size:
        if (known[0] >= floor).all() and (known[1] <= ceiling).all():
            return None
    least, most = np.full(spec.size, np.inf), np.full(spec.size, -np.inf)
    outside = 0
    for piece in actions.resized(spec.size).pieces():
        outside += int(((piece < floor) | (piece > ceiling)).any(1).sum())
        least, most = np.minimum(least, piece.min(0)), np.maximum(most, piece.max(0))
    if not outside:
        return None
    excess = np.maximum(low - least, most - high) / np.where(width > 0, width, 1.0)
    d = int(np.argmax(np.where(np.isfinite(excess), excess, -np.inf)))
    name = f" ('{spec.names[d]}')" if spec.names else ""
    return (
        f"{outside / len(actions):.2g} of {len(actions)} steps have actions outside the box; worst "
        f"is dimension {d}{name}, from {least[d]:g} to {most[d]:g}; expected {low[d]:g} to "
        f"{high[d]:g}"
    )


def _article(f: Field) -> str:
    return str(f) if f.kind == "text" else f"{'an' if f.kind == 'image' else 'a'} {f}"
