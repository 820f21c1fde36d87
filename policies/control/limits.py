"""Limits of actions that a file tightens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from alltrades.data.actions import KEYS, ActionSpec
from alltrades.data.interface import Interface
from alltrades.errors import UserError, nearest

EVERY = "*"  # in a file: every environment


def read_limits(path: Path | str, environments: Sequence[Interface]) -> dict[str, ActionSpec]:
    """Limits of every environment of a policy, tightened by a YAML file; the box is in action
    units, rates per control step.

        "*": {rate: 0.2}
        planar/reach: {low: [-0.5, -0.5], high: 0.5, acceleration: 0.05}

    Raises UserError for a file that cannot be read or names an environment that the policy does not
    know.
    """
    from alltrades.system.yaml_files import read_yaml

    path = Path(path)
    keys = f'environment ids (or "{EVERY}"), each with some of {", ".join(KEYS)}'
    entries = read_yaml(path, f"limits in YAML: {keys}", "mend the file")
    if not isinstance(entries, dict) or not all(isinstance(v, dict) for v in entries.values()):
        raise UserError(f"{path}: expected {keys}")
    ids = [info.id for info in environments]
    for name in entries:
        if name != EVERY and name not in ids:
            raise UserError(
                f"{path}: limits of '{name}', which the policy does not know; expected "
                f'"{EVERY}" or one of '
                f"{', '.join(ids[:12])}{nearest(str(name), ids)}"
            )
    out = {}
    for info in environments:
        limits = replace(info.action, stop=None)
        for name in (EVERY, info.id):
            limits = limits.tightened(entries.get(name, {}), f"{path}: {name}")
        out[info.id] = limits.stopping_at(info.action.stop, f"{path}: {info.id}")
    return out
