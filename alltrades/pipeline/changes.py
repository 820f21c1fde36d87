"""What differs between the inputs and the code that a stage was made with and those of now, in
words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from alltrades.settings.nested import flatten

MOST = 4  # that a line names
_DIGEST = re.compile(r"[0-9a-f]{12}|[0-9a-f]{64}")


def key_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Differences of two keys of a stage, both plain JSON data: "policy.width 64 -> 128"."""
    before, after = dict(flatten(old)), dict(flatten(new))
    return [
        _change(name, before.get(name), after.get(name))
        for name in dict.fromkeys([*after, *before])
        if before.get(name) != after.get(name)
    ]


def code_changes(old: Mapping[str, str] | None, new: Mapping[str, str]) -> list[str]:
    """Differences of what `code_of` says: "my_env.py was edited", "torch 2.6.0 -> 2.7.0"."""
    if old is None:
        return ["it was made before code was recorded"]
    changes = []
    for name in dict.fromkeys([*new, *old]):
        before, after = old.get(name), new.get(name)
        if before == after:
            continue
        if before is None or after is None:
            changes.append(f"{name} {'came in' if before is None else 'is used no more'}")
        elif _DIGEST.fullmatch(before) or before.split(" ")[0] == after.split(" ")[0]:
            changes.append(f"{name} was edited")
        else:
            changes.append(f"{name} {before} -> {after}")
    return changes


def in_short(changes: Sequence[str]) -> str:
    """The first of them."""
    more = f" and {len(changes) - MOST} more" if len(changes) > MOST else ""
    return "; ".join(changes[:MOST]) + more


def _change(name: str, before: Any, after: Any) -> str:
    words = [str(value) for value in (before, after)]
    if any(_DIGEST.fullmatch(word) or len(word) > 40 for word in words):
        return f"{name} is another"
    return f"{name} {words[0]} -> {words[1]}"
