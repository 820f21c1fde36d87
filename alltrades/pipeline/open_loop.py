"""The stage that judges policies without a simulator: open loop, on episodes that nothing learned
from.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from alltrades.envs.spec import EnvSpec
from alltrades.errors import UserError
from alltrades.pipeline import given
from alltrades.pipeline.acting import load_policies
from alltrades.pipeline.advice import Lesson
from alltrades.pipeline.artifacts import policy_digests, training_of
from alltrades.pipeline.context import Context
from alltrades.pipeline.demonstrations import Demonstrations
from alltrades.pipeline.holdout import UNSIMULATED
from alltrades.policies.learning.open_loop import open_loop
from alltrades.policies.learning.resampling import interval
from alltrades.system.files import slug, write_json
from alltrades.system.reading import read_mapping
from alltrades.system.reporting import Report

MOST = 4  # environments that a line names
OpenLoop = dict[str, Any]  # by environment, what `open_loop` says


def judge(
    demos: Demonstrations,
    rows: Mapping[str, Path],
    out: Path | None = None,
    preference: Mapping[str, float] | None = None,
    stage: str = "open_loop",
    unsure: Collection[str] = (),
) -> OpenLoop:
    """Open-loop errors of rows, given with their artifacts, in every environment of which episodes
    are held out; also as JSON in `out`. A `preference` is what policies that take one act by;
    `unsure` are environments of which nobody knows whether the rows learned from these episodes.
    """
    context = demos.context
    if not any(context.holdout.values()):
        return {}
    found: OpenLoop = {}

    def body(report: Report) -> None:
        device, seed = context.settings.device, context.settings.evaluation.seed
        policies = {
            row: load_policies(p, context.specs, device, preference) for row, p in rows.items()
        }
        held_out, learned = demos.held_out(), demos.steps()
        learned = learned.select(learned.has_actions)
        for k, environment in enumerate(context.interfaces):
            name = environment.id
            mine = held_out.choose(held_out.numbers(name))
            if len(mine.ends):
                acting = {row: of_row[name] for row, of_row in policies.items()}
                own = learned.choose(learned.numbers(name))
                found[name] = open_loop(acting, mine, own, environment, seed)
                found[name]["simulated"] = context.specs[k].simulated
                found[name]["unseen"] = name not in unsure
            report.progress(k + 1, len(context.specs))
        if out is not None:
            write_json(out, found)

    key = demos.key() | {"policies": {row: policy_digests(path) for row, path in rows.items()}}
    outputs = [out] if out is not None else []
    context.stage(stage, key, outputs, body, len(context.specs), "env")
    written = found  # as in the file, which is sorted by name
    if out is not None:
        written = read_mapping(out, "errors that a run wrote", "delete it")
    for facts in written.values():
        facts["rows"] = {row: facts["rows"][row] for row in rows}
    return {name: written[name] for name in context.ids if name in written}


def judge_given(
    context: Context,
    name: str,
    policy: Path,
    out: Path | None,
    preference: Mapping[str, float] | None = None,
) -> OpenLoop:
    """The same of one policy on the stores that the settings name, in every environment that they
    have, simulated or not. Raises UserError where they do not fit what the policy sees, and where
    nothing is left to judge on.
    """
    demos, specs = context.settings.demos, specs_there(context, policy)
    stores = ", ".join(map(str, demos.stores))
    share = UNSIMULATED if demos.holdout is None else demos.holdout
    held = context.settings.model_copy(
        update={"demos": demos.model_copy(update={"holdout": share})}
    )
    context = replace(context, specs=specs, settings=held)
    acting = load_policies(policy, specs, held.device)
    seen = {i: set(p.environments[p.environment_index(i)].observation) for i, p in acting.items()}
    given.check(context.stores.all(demos.stores), specs, seen)
    chosen = Demonstrations(context, demos.stores[0], demos.stores[1:])
    judged_on = chosen.held_out()
    if not len(judged_on.ends):
        raise UserError(
            f"{stores}: no episode is held out (demos.holdout = {share:g}); expected at least one "
            "of two; give more episodes, or --demos.holdout 0.2"
        )
    for line in given.shares(chosen.stores, chosen.steps(), judged_on, context.ids):
        print(line)
    there = map(str, np.unique(judged_on.environment))
    unsure = [environment for environment in there if not _unseen(policy, environment, chosen)]
    for environment in unsure:
        print(
            f"warning: {environment}: nothing says that {policy} did not learn from these "
            "episodes; if it did, this says how well it remembers them (give the data of its "
            "training, and no larger --demos.holdout than that had)",
            file=sys.stderr,
        )
    return judge(chosen, {name: policy}, out, preference, unsure=unsure)


def _unseen(policy: Path, environment: str, demos: Demonstrations) -> bool:
    """Whether an artifact says that it did not learn from the held-out episodes of an environment:
    those of as many, chosen by the same seed, of which its training held out as large a share.
    """
    facts = training_of(policy) or training_of(policy / slug(environment))
    own = facts.get("held_out", {}).get(environment)
    now = demos.held_out_facts()["held_out"][environment]
    if own is None or (own["of"], own["seed"]) != (now["of"], now["seed"]):
        return False
    return bool(own["share"] >= now["share"])


def specs_there(context: Context, policy: Path) -> tuple[EnvSpec, ...]:
    """The environments of which the stores that the settings name have episodes. UserError where
    there is none.
    """
    stores = context.settings.demos.stores
    there = [e.id for e in given.environments_of(context.stores.all(stores))]
    specs = tuple(spec for spec in context.specs if spec.id in there)
    if not specs:
        raise UserError(
            f"{', '.join(map(str, stores))}: episodes of {', '.join(there[:MOST])}, none of them "
            f"an environment of {policy}; expected some of {', '.join(context.ids[:MOST])}; give "
            "another store"
        )
    return specs


def advice_line(
    facts: Mapping[str, Any], generalist: str, teacher: str | None, lesson: Lesson
) -> str:
    """What to do next for an environment that only recordings know.

    Args:
        facts: what `open_loop` says of it. teacher: the row that the generalist learned from,
            where it was judged. lesson: what the first teacher has learned.
    """
    rows, best = facts["rows"], facts["best_baseline"]
    own, learned = rows[generalist], facts["learned"]
    taught = None if teacher is None else rows.get(teacher)
    trivial = facts["baselines"][best]["share"]
    if taught is not None and not taught["better"]:
        more = lesson.remedy if lesson.little else f"more demonstrations (now {learned})"
        return (
            f"open loop no better than '{best}' ({taught['share']:.2f} and {trivial:.2f} of the "
            f"variance), nor are its teachers: {more}"
        )
    if taught is not None:
        bounds = interval(np.subtract(own["shares"], taught["shares"]))
        if bounds is not None and bounds[0] > 0:
            return (
                f"open loop behind its teachers ({own['share']:.2f} and {taught['share']:.2f} of "
                "the variance): more distillation steps or width"
            )
    if not own["better"]:
        words = "no better than" if own["difference"] >= 0 else "not told apart from"
        return (
            f"open loop {words} '{best}' ({own['share']:.2f} and {trivial:.2f} of the "
            f"variance): more demonstrations (now {learned})"
        )
    return (
        f"open loop {own['share']:.2f} of the variance, '{best}' {trivial:.2f}: try it on the "
        "robot; no success is known without one"
    )
