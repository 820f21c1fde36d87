"""Which environments are told what in a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from alltrades.data.fields import Field, field_name
from alltrades.envs.instructions.sentences import INSTRUCTION, Phrasing
from alltrades.errors import UserError

Spec = TypeVar("Spec", bound=Any)  # of an environment: the dataclass `EnvSpec`


def with_instructions(
    specs: Sequence[Spec], asked: bool = False, observe: Sequence[str] = ()
) -> list[Spec]:
    """The environments, with the field `instruction` where sentences are declared and it is asked
    for: by `asked`, or by a pattern of `observe` that fits no other field. Some have it anyway.

    Raises UserError where it is asked for and no environment has sentences.
    """
    able = [spec for spec in specs if spec.simulated and spec.instructions is not None]
    if asked and not able:
        raise UserError(
            "simulator.instructions: no environment has sentences that name its goals; expected "
            "one that does; register it with instructions=Instructions(goals)"
        )
    patterns = list(map(field_name, observe))

    def wanted(spec: Spec) -> bool:
        own = spec.own_observation
        free = [p for p in patterns if not any(fnmatchcase(name, p) for name in own)]
        return asked or any(fnmatchcase(INSTRUCTION, p) for p in free)

    return [_told(s) if s in able and s.told is None and wanted(s) else s for s in specs]


def told_apart(spec: Spec) -> Spec:
    """An environment, told which of its goals counts where it has several and returns nothing that
    says so.
    """
    several = spec.instructions is not None and len(spec.instructions.goals) > 1
    if not several or spec.told is not None or INSTRUCTION in spec.observation:
        return spec
    return _told(spec)


def _told(spec: Spec) -> Spec:
    fields = dict(spec.observation) | {INSTRUCTION: Field.text()}
    return replace(spec, observation=fields, told="training")


def phrased(spec: Spec, phrasing: Phrasing) -> Spec:
    """An environment whose episodes are told sentences of another kind, where they are told any.

    Raises UserError for wrong instructions where only one goal can be asked for.
    """
    if spec.told is None:
        return spec
    if phrasing == "wrong" and len(spec.instructions.goals) < 2:
        raise UserError(
            f"evaluation.instructions = wrong: '{spec.id}' has one goal, of which every sentence "
            "is right; expected environments of several goals, such as planar/marks; choose "
            "held_out or training"
        )
    return replace(spec, told=phrasing)
