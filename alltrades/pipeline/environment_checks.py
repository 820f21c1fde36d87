"""Environments are checked before they are trusted: in short, before anything trains on them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from alltrades.envs import registry
from alltrades.envs.checking.apart import examine_apart
from alltrades.envs.checking.examine import SHORT, examine
from alltrades.envs.checking.findings import Findings
from alltrades.envs.spec import EnvSpec
from alltrades.errors import UserError
from alltrades.pipeline.context import Context
from alltrades.system.reading import read_mapping, write_sealed
from alltrades.system.reporting import Report

NAME = "environments"


def checked(context: Context, account: Path | None = None) -> Context:
    """The same context, whose environments were tried: a few starts and steps of each.

    What is odd is said on stderr, and those whose reset is incomplete are built anew for every
    episode. With an `account`, a file of the run, all are tried, once; without, those that come
    with the package are trusted. Those of others are tried in a process of their own.

    Raises UserError for the first that breaks its contract, or whose episodes do not repeat.
    """
    specs = context.simulated
    if account is None or context.manifest is None:
        found = list(_tried([s for s in specs if not registry.is_built_in(s.id)]))
        _require(found)
    else:

        def body(report: Report) -> None:
            done = []
            for findings in _tried(specs):
                done.append(findings)
                report.progress(len(done), len(specs))
            _require(done)
            write_sealed(account, {"found": [findings.to_json() for findings in done]})

        key = {s.id: [registry.is_built_in(s.id), s.rebuild, s.reproducible] for s in specs}
        context.stage(NAME, key, [account], body, len(specs), "environment")
        found = _read(account)
    for findings in found:
        for line in findings.lines(["warning"]):
            print(f"environment '{findings.environment}': {line}", file=sys.stderr)
    again = {findings.environment for findings in found if findings.rebuild}
    return replace(
        context,
        specs=tuple(replace(s, rebuild=True) if s.id in again else s for s in context.specs),
    )


def _tried(specs: Sequence[EnvSpec]) -> Iterator[Findings]:
    foreign = [s for s in specs if not registry.is_built_in(s.id)]
    for spec in specs:
        if spec not in foreign:
            yield examine(spec, None, SHORT)
    yield from examine_apart(foreign, {}, SHORT)


def _require(found: Sequence[Findings]) -> None:
    for findings in found:
        findings.require()


def _read(path: Path) -> list[Findings]:
    remedy = "delete it: they are tried again"
    values = read_mapping(path, "what checks of environments found", remedy)
    try:
        return [Findings.from_json(value) for value in values["found"]]
    except (TypeError, KeyError) as error:
        raise UserError(
            f"{path}: cannot be read ({error}); expected what checks of environments found; "
            f"{remedy}"
        ) from error
