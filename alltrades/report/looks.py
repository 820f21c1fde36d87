"""Words of what a policy looks at, in the terminal and on its page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alltrades.report.columns import columns

TOGETHER = ("all images", "everything")  # what is exchanged at once, after single fields
DIMENSIONS, SHOWN = 6, 16  # of the actions that the terminal names, and pages


def look_heading(name: str, facts: Mapping[str, Any]) -> str:
    """On what it was found."""
    return (
        f"{name}: {facts['states']} states of {facts['episodes']} episodes, "
        f"{facts['executed']} executed actions"
    )


def look_heads(facts: Mapping[str, Any], most: int) -> list[str]:
    """Heads of the columns of `look_lines`, the first `most` dimensions of the actions among
    them.
    """
    named = [
        f"{name} ({unit})" if unit else f"action {name}" if name.isdigit() else name
        for name, unit in zip(facts["names"], facts["units"])
    ]
    return ["from another episode", "share of variance", "", "same episode", "", *named[:most]]


def look_lines(facts: Mapping[str, Any], most: int) -> list[list[str]]:
    """Of every field: share of the actions' variance that changes with it, its interval, the share
    from another step of the same episode, the verdict, and the change of each action in its units;
    last of another draw of noise.
    """
    lines = []
    fields = facts["fields"]  # files are sorted by name
    order = [*(n for n in fields if n not in TOGETHER), *(n for n in TOGETHER if n in fields)]
    rows = {**{name: fields[name] for name in order}, "another draw of noise": facts["noise"]}
    for name, own in rows.items():
        low, high = own["interval"]
        within = own.get("within")
        lines.append(
            [
                name,
                f"{own['share']:.3f}",
                f"[{low:.3f}, {high:.3f}]",
                "-" if within is None else f"{within:.3f}",
                own.get("verdict", ""),
                *(f"{value:.3g}" for value in own["rms"][:most]),
            ]
        )
    return lines


def look_text(found: Mapping[str, Any]) -> str:
    """Tables of all environments as aligned lines."""
    blocks = []
    for name, facts in found.items():
        rest = len(facts["names"]) - DIMENSIONS
        table = [look_heads(facts, DIMENSIONS), *look_lines(facts, DIMENSIONS)]
        lines = columns(table, right=(1, 3, *range(5, len(table[0]))))
        more = [f"and {rest} more dimensions"] if rest > 0 else []
        blocks.append("\n".join([look_heading(name, facts), *lines, *more]))
    return "\n\n".join(blocks)


def look_parts(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What pages show of each environment."""
    return [
        {
            "name": name,
            "heading": look_heading(name, facts),
            "head": look_heads(facts, SHOWN),
            "lines": look_lines(facts, SHOWN),
            "warnings": facts["warnings"],
            "pictures": [{"name": n, **own} for n, own in facts.get("saliency", {}).items()],
            "films": _films(facts.get("film")),
        }
        for name, facts in found.items()
    ]


def _films(film: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Of each camera, with words of the episode."""
    if film is None:
        return []
    became = {True: ", success", False: ", no success"}.get(film["success"], "")
    return [
        {
            "name": camera,
            "url": own["url"],
            "width": own["width"],
            "note": f"seed {film['seed']}, {film['steps']} steps{became}; shown are steps "
            f"{', '.join(map(str, own['steps']))}"
            + (f"; black to white is {own['note']}" if own["note"] else ""),
        }
        for camera, own in film["cameras"].items()
    ]
