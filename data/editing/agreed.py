"""One description of an environment from those of several stores."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any

from alltrades.data.actions import ActionSpec, few
from alltrades.data.agreement import united
from alltrades.data.fields import Field
from alltrades.data.interface import Interface
from alltrades.errors import UserError

FACTS = ("names", "units", "low", "high")  # of a field


def agreed(described: Iterable[tuple[str, Interface]]) -> dict[str, Interface]:
    """{id: what all stores together know of it}, of (store, interface) in order.

    Raises UserError where two say different things of one environment: fields, sizes, names, units,
    bounds, rates, versions.
    """
    out: dict[str, Interface] = {}
    first: dict[str, str] = {}
    for store, interface in described:
        known = out.get(interface.id)
        if known is None:
            out[interface.id], first[interface.id] = interface, store
            continue
        try:
            out[interface.id] = _both(known, interface)
        except ValueError as wrong:
            raise UserError(
                f"{store}: '{interface.id}' differs from that of {first[interface.id]}: {wrong}; "
                "expected one description of an environment; give one of them another name "
                "(`alltrades data rename`), or leave it out"
            ) from wrong
    return out


def _both(first: Interface, second: Interface) -> Interface:
    """What either knows; ValueError with how the second differs."""
    known = united(second, first)  # says of the second what it has and the first has not
    if first.version != second.version:
        raise ValueError(f"version {second.version}, not {first.version}")
    limits = [s for s in (first.max_steps, second.max_steps) if s is not None]
    return replace(
        known,
        observation={
            name: _fields(name, f, second.observation[name])
            for name, f in first.observation.items()
        },
        action=_actions(first.action, second.action),
        control_hz=first.control_hz or second.control_hz,
        max_steps=max(limits, default=None),
    )


def _fields(name: str, first: Field, second: Field) -> Field:
    return replace(first, **{k: _fact(f"'{name}'", k, first, second) for k in FACTS})


def _actions(first: ActionSpec, second: ActionSpec) -> ActionSpec:
    if 0 in (first.size, second.size):
        return first if first.size else second
    facts = {f.name: _fact("actions", f.name, first, second) for f in fields(ActionSpec)}
    return ActionSpec(**facts)


def _fact(what: str, name: str, first: Any, second: Any) -> Any:
    """What one of two says of something, or both."""
    a, b = getattr(first, name), getattr(second, name)
    if a is not None and b is not None and a != b:
        raise ValueError(f"{what} have {name} {_few(b)}, not {_few(a)}")
    return b if a is None else a


def _few(value: Any) -> str:
    if isinstance(value, tuple) and not any(isinstance(v, str) for v in value):
        return few(value)
    shown = [str(v) for v in value] if isinstance(value, tuple) else [str(value)]
    return ", ".join(shown[:6]) + (f" and {len(shown) - 6} more" if len(shown) > 6 else "")
