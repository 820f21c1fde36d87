"""YAML that people write, read without surprises: no key twice, no text that grows when it is read,
and one exception for all that the library raises.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from alltrades.errors import UserError
from alltrades.system.reading import Unreadable, read_text

MOST_BYTES = 2**22  # of a file that somebody writes
MOST_NODES = 200_000  # after aliases are put in place
_RAISED = (ValueError, TypeError, ArithmeticError, LookupError, AttributeError)  # of odd tags


class Loader(yaml.SafeLoader):
    """YAML that refuses a key given twice: the first value would be dropped silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key '{key.value}' is given twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str, loader: type[Any] = Loader) -> Any:
    """YAML data. Raises Unreadable, a ValueError that says where, for whatever is none, and for
    aliases that lead in a circle or come to more than MOST_NODES nodes. O(length of the text).
    """
    try:
        reading = loader(text)
        try:
            node = reading.get_single_node()
            if node is None:
                return None
            _check_size(node, {})
            return reading.construct_document(node)
        finally:
            reading.dispose()
    except Unreadable:
        raise
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or error
        raise Unreadable(f"not YAML{where} ({problem})") from error
    except RecursionError as error:
        raise Unreadable("not YAML (nested too deeply)") from error
    except _RAISED as error:
        raise Unreadable(f"not YAML ({' '.join(str(error).split())[:80]})") from error


def _check_size(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Nodes below and with this one, every alias counted as what it stands for."""
    known = sizes.get(id(node))
    if known == 0:
        raise Unreadable("an alias that stands inside what it stands for")
    if known is not None:
        return known
    sizes[id(node)] = 0  # being counted
    below: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        below = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        below = node.value
    size = 1 + sum(_check_size(part, sizes) for part in below)
    if size > MOST_NODES:
        raise Unreadable(f"more than {MOST_NODES} values; its aliases repeat themselves")
    sizes[id(node)] = size
    return size


def read_yaml(path: Path | str, expected: str, remedy: str) -> Any:
    """The YAML data of a file; UserError, in one line, where it cannot be read."""
    text = read_text(path, expected, remedy, MOST_BYTES)
    try:
        return parse_yaml(text)
    except ValueError as error:
        raise UserError(
            f"{path}: cannot be read ({error}); expected {expected}; {remedy}"
        ) from error


def read_yaml_mapping(path: Path | str, expected: str, remedy: str) -> dict[Any, Any]:
    """`read_yaml` of a file that holds a mapping; an empty file holds an empty one."""
    found = read_yaml(path, expected, remedy)
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        raise UserError(
            f"{path}: holds {' '.join(str(found).split())[:40]!r}; expected {expected}; {remedy}"
        )
    return dict(found)
