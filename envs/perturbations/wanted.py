"""Perturbations by name, of the environments in which there is something that they change."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from alltrades.envs.instructions import INSTRUCTION, Phrasing, phrased
from alltrades.envs.perturbations.pictures import PICTURES, changes
from alltrades.errors import UserError, nearest

Spec = TypeVar("Spec", bound=Any)  # of an environment: the dataclass `EnvSpec`

# what changes in the scene before it is drawn, as `Ranges` has it
SCENES: dict[str, dict[str, Any]] = {
    "scene-camera": {"camera_position": 0.03, "camera_angle": 2.0},
    "scene-light": {"light": (0.4, 1.6)},
    "scene-colors": {"colors": 0.3},
    "scene-distractors": {"distractors": 6},
}
TOLD: dict[str, Phrasing] = {
    "training-instruction": "training",
    "held-out-instruction": "held_out",
    "wrong-instruction": "wrong",
}
NAMES = (*PICTURES, *SCENES, *TOLD)


def check_names(names: Sequence[str], where: str) -> None:
    """Raises UserError for a perturbation that there is not, or that is named twice."""
    for name in names:
        if name not in NAMES:
            raise UserError(
                f"{where}: no perturbation '{name}'{nearest(name, list(NAMES))}; expected some of "
                f"{', '.join(NAMES)}"
            )
        if list(names).count(name) > 1:
            raise UserError(f"{where} names {name} twice; expected each once; remove one")


def perturbed(spec: Spec, name: str, seen: Collection[str]) -> Spec | None:
    """An environment under a perturbation; None where it changes nothing of what is seen.

    Args:
        spec: as episodes are told what to do without it.
        seen: names of the fields that a policy sees.
    """
    if name in TOLD:
        return _told(spec, TOLD[name]) if INSTRUCTION in seen else None
    if name in SCENES:
        cameras = {} if spec.rendering is None else spec.rendering.cameras
        drawn = [c for n, c in cameras.items() if not c.own_picture and set(c.fields(n)) & {*seen}]
        if not drawn:
            return None
        if any(c.own_picture for c in cameras.values()):
            return None  # pictures of its own, of the same scene, would not change with it
        ranges = replace(spec.rendering.ranges, **SCENES[name])
        return replace(spec, rendering=replace(spec.rendering, ranges=ranges))
    fields = spec.observation
    if not any(changes(name, fields[n]) for n in seen if n in fields):
        return None
    return replace(spec, perturbed=name)


def _told(spec: Spec, phrasing: Phrasing) -> Spec | None:
    """The same environment told otherwise; None where that is how it is told, or nothing is."""
    one = spec.instructions is None or len(spec.instructions.goals) < 2
    if spec.told in (None, phrasing) or (phrasing == "wrong" and one):
        return None
    return phrased(spec, phrasing)
