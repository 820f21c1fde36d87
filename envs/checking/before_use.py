"""The short check that stands before a use of environments, and what follows from it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

from alltrades.envs import registry
from alltrades.envs.checking.apart import TIMEOUT, examine_apart
from alltrades.envs.checking.examine import SHORT, examine
from alltrades.envs.checking.findings import Findings
from alltrades.envs.spec import EnvSpec


def tried(specs: Sequence[EnvSpec], timeout: float = TIMEOUT) -> Iterator[Findings]:
    """A few starts and steps of each: those that come with the package in this process, those of
    others in one of their own, which may take `timeout` seconds for one reset or step (0: any
    time).
    """
    foreign = foreign_of(specs)
    for spec in specs:
        if spec not in foreign:
            yield examine(spec, None, SHORT)
    yield from examine_apart(foreign, {}, SHORT, timeout)


def foreign_of(specs: Sequence[EnvSpec]) -> list[EnvSpec]:
    """Those that do not come with the package."""
    return [s for s in specs if not registry.is_built_in(s.id)]


def heeded(specs: Sequence[EnvSpec], found: Sequence[Findings]) -> tuple[EnvSpec, ...]:
    """The specifications as they are to be used: those whose reset is incomplete are built anew for
    every episode. What is odd is said on stderr.
    """
    for findings in found:
        for line in findings.lines(["warning"]):
            print(f"environment '{findings.environment}': {line}", file=sys.stderr)
    again = {findings.environment for findings in found if findings.rebuild}
    return tuple(replace(s, rebuild=True) if s.id in again else s for s in specs)


def required(found: Sequence[Findings]) -> Sequence[Findings]:
    """The findings themselves. Raises UserError for the first environment that breaks its contract,
    or whose episodes do not repeat.
    """
    for findings in found:
        findings.require()
    return found
