"""Environments are checked before they are trusted: in short, before anything trains on them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from alltrades.envs import registry
from alltrades.envs.checking.before_use import foreign_of, heeded, required, tried
from alltrades.envs.checking.findings import Findings
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
    specs, timeout = context.simulated, context.settings.rollout.timeout
    if account is None or context.manifest is None:
        found = required(list(tried(foreign_of(specs), timeout)))
    else:

        def body(report: Report) -> None:
            done = []
            for findings in tried(specs, timeout):
                done.append(findings)
                report.progress(len(done), len(specs))
            required(done)
            write_sealed(account, {"found": [findings.to_json() for findings in done]})

        key = {s.id: [registry.is_built_in(s.id), s.rebuild, s.reproducible] for s in specs}
        context.stage(NAME, key, [account], body, len(specs), "environment")
        found = _read(account)
    return replace(context, specs=heeded(context.specs, found))


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
