"""Nested plain data, as recipes and the command line give it: merge, flatten, nest, leave out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def merge(base: Mapping[str, Any], layer: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with what `layer` says: mappings are merged key by key, any other value replaces.

    An empty mapping inside `layer` clears what `base` has there.
    """
    merged = dict(base)
    for key, value in layer.items():
        below = merged.get(key)
        merged[key] = (
            merge(below, value)
            if isinstance(value, Mapping) and value and isinstance(below, Mapping)
            else value
        )
    return merged


def flatten(values: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything that is no mapping, and of empty mappings."""
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from flatten(value, (*path, str(name)))
        else:
            yield ".".join((*path, str(name))), value


def nest(path: Sequence[str], value: Any) -> dict[str, Any]:
    """{a: {b: value}} for the path (a, b), which has at least one name."""
    for name in reversed(path):
        value = {name: value}
    return value


def without(
    values: Mapping[str, Any], keys: Sequence[str], path: tuple[str, ...] = ()
) -> dict[str, Any]:
    """`values` less the dotted `keys`."""
    kept = {}
    for name, value in values.items():
        here = (*path, str(name))
        if ".".join(here) not in keys:
            kept[name] = without(value, keys, here) if isinstance(value, dict) else value
    return kept
