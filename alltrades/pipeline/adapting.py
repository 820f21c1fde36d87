"""A new environment for a trained generalist, top to bottom: the demonstrations, the grown network,
specialists that practise, replay, distillation, and what was gained and lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from alltrades.envs.rollouts.evaluation import (
    CHOOSES,
    ENDS,
    FILTERS,
    RETURN,
    SUCCESS,
    Evaluation,
)
from alltrades.errors import UserError
from alltrades.pipeline.acting import Policies, load_policies
from alltrades.pipeline.adapt_folder import AdaptFolder
from alltrades.pipeline.artifacts import (
    artifact_files,
    policy_digest,
    policy_digests,
    said_uses,
    success_uses,
    training_of,
)
from alltrades.pipeline.candidates import Found, tried
from alltrades.pipeline.comparison import compared
from alltrades.pipeline.context import Context, opened
from alltrades.pipeline.demonstrations import Demonstrations, imported
from alltrades.pipeline.environment_checks import checked
from alltrades.pipeline.measurement import check_starts, measure
from alltrades.pipeline.open_loop import OpenLoop, judge
from alltrades.pipeline.replay import Replay, replay_of, specs_of
from alltrades.pipeline.rundir import ACCOUNT, RunDir
from alltrades.policies.learning.adaptation import (
    Source,
    adaptation_rows,
    labelled,
    shares,
)
from alltrades.policies.learning.batches import TrainingData
from alltrades.policies.learning.distillation import RECORDED
from alltrades.policies.learning.health import settings_called
from alltrades.policies.learning.initial import grow_policy
from alltrades.policies.learning.objectives import Linear
from alltrades.policies.learning.training import Goal, Trainer
from alltrades.policies.model.loading import load_policy
from alltrades.policies.model.network import check_growth
from alltrades.settings.rows import Row
from alltrades.settings.run import RunSettings
from alltrades.system.files import write_text
from alltrades.system.reporting import Report

LOST = 0.02  # of success, beyond its interval, from which a loss is warned of
BEFORE, AFTER, SCRATCH = "before", "after", "scratch"


@dataclass
class AdaptResult:
    """What an adaptation leaves: evaluations of the environments before and of the new ones, their
    comparisons, candidates, open-loop errors where nothing can be rolled out, warnings.
    """

    folder: Path
    old: dict[str, Evaluation] = field(default_factory=dict)
    new: dict[str, Evaluation] = field(default_factory=dict)
    comparisons: dict[str, dict[str, Any]] = field(default_factory=dict)
    candidates: list[dict[str, Any]] = field(default_factory=list)
    open_loop: OpenLoop = field(default_factory=dict)
    replay: str = ""
    warnings: list[str] = field(default_factory=list)


def adapt(
    settings: RunSettings,
    generalist: Path,
    out: Path,
    replay: Sequence[Path] | None = (),
    origins: dict[str, str] | None = None,
) -> AdaptResult:
    """A generalist that also acts in the environments of the settings, as an artifact in `out`,
    which keeps the account of its stages: an interrupted adaptation goes on where it was.

    Args:
        settings: see `adapt_settings.settings_for`.
        replay: stores of episodes of environments that the generalist knows; it is rolled out in
            those that have none. None: no replay at all.

    Raises UserError where the network cannot grow, and without replay unless that is asked for.
    """
    from alltrades.settings.load import dump_yaml

    policy, folder = load_policy(generalist, settings.device), AdaptFolder(out)
    if (out / "policy.json").exists() and not folder.demos.exists():
        raise UserError(
            f"{out}: a policy is there already, which no adaptation wrote; expected a folder for "
            "the adapted one; choose another --out"
        )
    with RunDir(out, settings.seed, what="folder", account=ACCOUNT) as rundir:
        write_text(folder.settings, dump_yaml(settings, origins or {}))
        with opened(settings, rundir.manifest) as context:
            new = checked(context)
            check_growth(policy, [*policy.environments, *_seen(new, settings)])
            old = replace(new, specs=specs_of(new, policy))
            reminded = replay_of(old, policy, replay)
            return _stages(new, old, generalist, reminded, folder)


def _stages(
    new: Context, old: Context, generalist: Path, replay: Replay, folder: AdaptFolder
) -> AdaptResult:
    new.say(replay.said())
    imported(new, folder.demos)
    demos = Demonstrations(new, folder.demos)
    demos.print_statistics()
    _grow(demos, generalist, folder.grown)
    replay.record(generalist, folder.replay)
    found = tried(demos, folder)
    stores = {"demos": folder.demos}
    check_starts(new, stores, new.settings.adapt.rounds.selection)
    replayed = [*replay.stores, *([folder.replay] if replay.rolled_out else [])]
    check_starts(old, {f"replay {path}": path for path in replayed})
    _distill(demos, generalist, replay, found, folder)
    return _measured(demos, old, generalist, replay, found, folder)


def _seen(context: Context, settings: RunSettings) -> list[Any]:
    """The new environments, with the fields that the generalist will see."""
    return [e.seeing(settings.policy.observe) for e in context.interfaces]


def _grow(demos: Demonstrations, generalist: Path, out: Path) -> None:
    """The generalist's artifact with room for the new environments."""
    context = demos.context

    def body(_: Report) -> None:
        policy = load_policy(generalist, context.settings.device)
        seen = _seen(context, context.settings)
        grow_policy(policy, demos.steps(), seen, context.seed("grow")).save(
            out, said_uses(success_uses(generalist))
        )

    key = demos.key() | {"generalist": policy_digest(generalist)}
    context.stage("grow", key, artifact_files(out), body)


# ---- distillation --------------------------------------------------------------------------------
def _distill(
    demos: Demonstrations, generalist: Path, replay: Replay, found: Found, folder: AdaptFolder
) -> None:
    """The grown generalist learns the new environment from practice, and is reminded of its own."""
    context, out = demos.context, folder.path
    adapting = context.settings.adapt
    training = context.settings.training.of(adapting.train)
    silent = {
        name: row
        for name, row in found.chosen.items()
        if context.blind or name not in {s.id for s in context.simulated}
    }  # whose candidate has no rollouts: it labels the states of the demonstrations

    def body(report: Report) -> None:
        device, seed = context.settings.device, context.seed("adapt")
        teachers: dict[str, Policies] = {
            "generalist": load_policies(generalist, replay.context.specs, device)
        }
        told = dict.fromkeys(context.ids, RECORDED)
        for name, row in silent.items():
            told[name] = len(teachers)
            specs = [s for s in context.specs if s.id == name]
            teachers[row.teacher + name] = load_policies(folder.candidate(row), specs, device)
        learned = _sources(context, found, told, replay.sources(folder.replay))
        policy = load_policy(folder.grown, device).train()
        rows = labelled(
            adaptation_rows(learned),
            teachers,
            policy,
            steps=context.settings.distill.label_steps,
            seed=seed,
            executor=context.executor,
        )
        of = shares(replay.environments, context.ids, adapting.replay)
        place = context.place("adapt")
        symmetries = {s.id: s.symmetries for s in (*context.specs, *replay.context.specs)}
        augmentation = replace(context.augmentation, symmetries=symmetries)
        data = TrainingData(
            replace(rows, shares=of), policy, augmentation.symmetric(training.symmetry), place.work
        )
        with settings_called("adapt.train"):
            trainer = Trainer(policy, data, training, seed, Goal(Linear(policy.layout.ids, of)))
            trainer.fit(place, report)
        facts = {
            "steps": training.steps,
            "losses": list(trainer.course()),
            "seed": seed,
            "adapted from": policy_digest(generalist),
            "new environments": list(context.ids),
            "held_out": _held_out(generalist, demos, replay),
            **said_uses(_uses(context, generalist, found)),
        }
        policy.save(out, facts)

    key = {
        "grown": policy_digest(folder.grown),
        "practice": context.stores.open(found.practice).digest(),
        "demos": found.demos,
        "replay": replay.key(folder.replay),
        "chosen": {name: policy_digests(folder.candidate(row)) for name, row in silent.items()},
        "adapt": adapting.model_dump(mode="json", exclude={"rounds", "candidates", "train"}),
        "label_steps": context.settings.distill.label_steps,
        "train": training.determining(),
    }
    context.stage("adapt", key, artifact_files(out), body, training.steps, "step")


def _sources(
    context: Context, found: Found, told: Mapping[str, int], replayed: Sequence[Source]
) -> list[Source]:
    """Demonstrations, successes of practice, and replay."""
    steps = context.stores.open(found.practice).steps()
    first = np.arange(len(steps.ends)) < found.demos
    share = context.settings.adapt.demo_share
    sources = [Source(steps.select(first), told, share)]
    if not first.all():
        succeeded = steps.select(~first)
        sources.append(Source(succeeded, dict.fromkeys(context.ids, RECORDED), 1 - share))
    return [*sources, *replayed]


def _held_out(generalist: Path, demos: Demonstrations, replay: Replay) -> dict[str, Any]:
    """What an adapted generalist did not learn from, by environment: of episodes that it was
    reminded of nobody says so.
    """
    before: dict[str, Any] = training_of(generalist).get("held_out", {})
    kept = {name: said for name, said in before.items() if name not in replay.stored}
    return kept | demos.held_out_facts()["held_out"]


def _uses(context: Context, generalist: Path, found: Found) -> set[str]:
    """How the simulator's success signal reached the adapted generalist."""
    uses = set(success_uses(generalist))
    if any(row["metric"] == SUCCESS for row in found.table):
        uses.add(CHOOSES)
        if len(context.stores.open(found.practice)) > found.demos:
            uses |= {ENDS, FILTERS}
    return uses


# ---- what was gained and lost --------------------------------------------------------------------
def _measured(
    demos: Demonstrations,
    old: Context,
    generalist: Path,
    replay: Replay,
    found: Found,
    folder: AdaptFolder,
) -> AdaptResult:
    new, out = demos.context, AdaptResult(folder.path)
    out.candidates, out.replay = found.table, replay.said()
    scratch = folder.candidate(Row("scratch"))
    if old.simulated:
        before = measure(old, BEFORE, generalist, folder.evaluation(BEFORE))
        after = measure(old, AFTER, folder.path, folder.evaluation(AFTER))
        out.old = {BEFORE: before, AFTER: after}
        out.comparisons["old"] = compared(out.old, [(AFTER, BEFORE)])
        out.warnings += losses(out.comparisons["old"])
    old.unsimulated("before and after", "what adapting changes there is not measured")
    if new.simulated:
        if "scratch" in new.settings.adapt.candidates:
            out.new[SCRATCH] = measure(new, SCRATCH, scratch, folder.evaluation(SCRATCH))
        name = f"{AFTER} (new)"
        out.new[AFTER] = measure(new, name, folder.path, folder.evaluation("after_new"))
        out.comparisons["new"] = compared(out.new, [(AFTER, SCRATCH)])
    rows = {AFTER: folder.path}
    if "scratch" in new.settings.adapt.candidates:
        rows = {SCRATCH: scratch, **rows}
    out.open_loop = judge(demos, rows, folder.open_loop)
    new.write(
        folder.report,
        {
            "old": list(old.ids),
            "new": list(new.ids),
            "replay": out.replay,
            "candidates": out.candidates,
            "comparisons": out.comparisons,
            "warnings": out.warnings,
        },
    )
    return out


def losses(comparison: Mapping[str, Any]) -> list[str]:
    """A line for every environment before that lost more than 2 points of success beyond its
    interval, or of whose return the interval is below 0.
    """
    lines = []
    for pair in comparison["pairs"]:
        for name, facts in pair["per_environment"].items():
            low, high = facts["interval"]
            if pair["metric"] == SUCCESS and high < -LOST:
                lines.append(
                    f"{name} lost {-100 * facts['mean']:.0f} points of success, at least "
                    f"{-100 * high:.0f} by its interval: raise adapt.replay or adapt.train.steps, "
                    "or give more episodes of it with --replay"
                )
            elif pair["metric"] == RETURN and facts["verdict"] == "WORSE":
                lines.append(
                    f"{name} lost {-facts['mean']:.4g} of its return [{low:.4g}, {high:.4g}]: "
                    "raise adapt.replay or adapt.train.steps, or give more episodes of it with "
                    "--replay"
                )
    return lines


def described(row: Mapping[str, Any]) -> str:
    """A candidate in a line of its environment's table."""
    low, high = row["interval"] or (float("nan"), float("nan"))
    between = f" [{low:.2f}, {high:.2f}]" if low == low else ""  # one episode has none
    mark = "  (chosen)" if row["chosen"] else ""
    name = row["candidate"] + (f" after round {row['round']}" if row["round"] else "")
    return f"{name}: {row['metric']} {row['mean']:.2f}{between}{mark}"
