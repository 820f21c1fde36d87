"""The stages of a run one by one: collect, train, rollout, weigh, distill; `evaluate` is apart.

They are the stages that `run` calls, with inputs and outputs of the user's. An output folder keeps
the account of its stage, and its checkpoints, in a sub-folder.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alltrades.commands.by_hand import by_hand_arguments, check_by_hand, collect_by_hand
from alltrades.commands.command import (
    Command,
    at_least,
    demos_argument,
    preference_argument,
    recipe_arguments,
    trust_argument,
)
from alltrades.commands.stage_context import stage_context
from alltrades.errors import UserError
from alltrades.policies.fetched import fetched
from alltrades.system.remote.place import place


def _collect_arguments(parser: argparse.ArgumentParser) -> None:
    recipe_arguments(parser)
    parser.add_argument(
        "--keep",
        default=None,
        metavar="WHICH",
        help="all, successes or top:SHARE (the same as --demos.keep)",
    )
    parser.add_argument("--out", required=True, help="store to write or continue")
    by_hand_arguments(parser)
    trust_argument(parser)


def collect(args: argparse.Namespace) -> int:
    """Demonstrations from scripted experts, or by hand."""
    check_by_hand(args)
    if args.teleop is not None:
        return collect_by_hand(args)
    from alltrades.data.store import EpisodeStore
    from alltrades.pipeline.demonstrations import record

    if args.keep is not None:
        args.overrides = [*args.overrides, "--demos.keep", args.keep]
    with stage_context(args) as context:
        record(context, place(args.out))
    made = EpisodeStore.open(args.out).provenance
    lost = Counter(fault["environment"] for fault in made.get("faults", ()))
    for name, rate in made["experts"].items():
        unfinished = f", {lost[name]} of which it could not finish" if lost[name] else ""
        print(
            f"{name}: kept {rate['kept']} demonstrations of {rate['n']} tries of the expert"
            f"{unfinished}{_said(rate)}"
        )
    print(f"wrote {args.out}")
    return 0


def _said(rate: Mapping[str, Any]) -> str:
    """What became of tries, where more is to be said than that those that were kept succeeded."""
    if rate["successes"] is None:
        return f" (success unknown, mean return {rate['return']:.4g})"
    return "" if rate["successes"] == rate["kept"] else f" ({rate['successes']} successes)"


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what",
        choices=[
            "specialists",
            "specialists_joint",
            "labeled_only",
            "labeled_only_holdout",
            "labeled_only_privileged",
        ],
        help="which policies",
    )
    recipe_arguments(parser)
    demos_argument(parser)
    parser.add_argument(
        "--labeled-only", default=None, help="labeled-only policy that specialists_joint start from"
    )
    parser.add_argument("--out", required=True, help="folder of the artifact(s)")


def train(args: argparse.Namespace) -> int:
    """Specialists or the labeled-only policy."""
    from alltrades.pipeline.demonstrations import of_stores
    from alltrades.pipeline.labeled_only import train_labeled_only
    from alltrades.pipeline.specialists import train_specialists
    from alltrades.settings.rows import OWN_ROWS

    row, out, line = OWN_ROWS[args.what], Path(args.out), None
    with stage_context(args, out) as context:
        demos = of_stores(context, args.demos)
        demos.print_statistics()
        if row.labeled_only:
            train_labeled_only(demos, row, out)
        elif row.kind == "joint_init" and args.labeled_only is None:
            raise UserError(
                "specialists_joint start from the labeled-only policy; none was given; add "
                "--labeled-only FOLDER"
            )
        else:
            joint = Path(args.labeled_only) if row.kind == "joint_init" else None
            line = train_specialists(demos, row, out, joint)
    if line is not None:
        print(line)
    print(f"wrote {out}")
    return 0


def _rollout_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("policy", help="artifact, or folder with one artifact per environment")
    recipe_arguments(parser)
    parser.add_argument(
        "--teacher",
        default="scratch",
        help="name of the source: scratch, joint_init or labeled_only",
    )
    parser.add_argument("--episodes", type=at_least(1), default=60, help="episodes per environment")
    preference_argument(parser)
    trust_argument(parser)
    parser.add_argument("--out", required=True, help="store to write or continue")


def rollout(args: argparse.Namespace) -> int:
    """Pseudo-trajectories."""
    from alltrades.data.store import EpisodeStore
    from alltrades.pipeline.rollouts import Teacher, roll_out, rollout_statistics
    from alltrades.policies.model.preference import parse_preference

    if not args.teacher.strip():
        raise UserError(
            "--teacher ''; expected the name of who acts, which its episodes are recorded under; "
            "give one, such as scratch"
        )
    teacher = Teacher(args.teacher, fetched(args.policy), place(args.out))
    with stage_context(args) as context:
        if not context.simulated:
            raise UserError(
                f"no simulator of {', '.join(context.ids)}: nothing to roll out; evaluate the "
                "policy on recordings: alltrades evaluate POLICY --demos STORE"
            )
        roll_out(context, teacher, args.episodes, parse_preference(args.preference))
    made = EpisodeStore.open(teacher.rollouts).provenance
    lost = Counter(fault["environment"] for fault in made.get("faults", ()))
    for name, facts in rollout_statistics(teacher.rollouts).items():
        unfinished = f"; {lost[name]} more could not be finished" if lost[name] else ""
        became = f"{facts['successes']} of {facts['n']} episodes succeeded"
        if facts["successes"] is None:
            became = f"{facts['n']} episodes, success unknown, mean return {facts['return']:.4g}"
        print(f"{name}: {became}, {facts['steps']} steps{unfinished}")
    print(f"wrote {args.out}")
    return 0


def _weigh_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "rollouts",
        nargs="+",
        help="store of rollouts; of several teachers in the order that distill gets them",
    )
    recipe_arguments(parser)
    demos_argument(parser)
    parser.add_argument("--out", required=True, help="folder of the weights")


def weigh(args: argparse.Namespace) -> int:
    """Importance weights."""
    from alltrades.pipeline import weighing
    from alltrades.pipeline.demonstrations import of_stores
    from alltrades.pipeline.rollouts import check_rollouts
    from alltrades.settings.rows import GENERALIST

    with stage_context(args, Path(args.out)) as context:
        stores = [place(store) for store in args.rollouts]
        check_rollouts(context, stores)
        results = weighing.weigh(
            of_stores(context, args.demos),
            stores,
            GENERALIST,
            context.settings.distill,
            Path(args.out),
        )
    for name, result in results.items():
        summary = result.summary()
        shown = " ".join(
            f"{k} {summary[k]:.2f}"
            for k in ("auc", "ess", "tau", "max_weight")
            if summary[k] is not None
        )
        print(
            f"{name}: {'active' if result.active else 'inactive'} {shown}"
            + "".join(f"; {w}" for w in result.warnings)
        )
    print(f"wrote {args.out}")
    return 0


def _distill_arguments(parser: argparse.ArgumentParser) -> None:
    recipe_arguments(parser)
    demos_argument(parser)
    parser.add_argument(
        "--teacher",
        action="append",
        required=True,
        metavar="NAME=POLICIES:ROLLOUTS",
        help="a teacher's artifact folder and its store of rollouts; repeatable",
    )
    parser.add_argument(
        "--weights",
        default=None,
        help="folder that weigh wrote; default: the same weights are estimated here",
    )
    parser.add_argument(
        "--labeled-only", default=None, help="policy to start from with --distill.init labeled_only"
    )
    parser.add_argument("--out", required=True, help="folder of the artifact")


def distill(args: argparse.Namespace) -> int:
    """A generalist."""
    from alltrades.pipeline.demonstrations import of_stores
    from alltrades.pipeline.generalist import Sources, train_generalist
    from alltrades.pipeline.kept import draw_kept
    from alltrades.pipeline.rollouts import parse_teacher
    from alltrades.pipeline.rundir import ACCOUNT
    from alltrades.pipeline.weighing import weigh
    from alltrades.pipeline.weights_folder import load_weights
    from alltrades.report import text
    from alltrades.settings.rows import GENERALIST, Row

    out = Path(args.out)
    with stage_context(args, out) as context:
        settings = context.settings.distill
        if settings.init == "labeled_only" and not args.labeled_only:
            raise UserError(
                "distill.init is labeled_only and no policy was given; add --labeled-only FOLDER"
            )
        given = Sources(
            of_stores(context, args.demos),
            tuple(parse_teacher(word, out / ACCOUNT) for word in args.teacher),
            Path(args.weights) if args.weights else out / ACCOUNT / "weights",
            Path(args.labeled_only) if settings.init == "labeled_only" else None,
        )
        given.check_policies()
        if args.weights:
            given.check_weights(settings)
            results = load_weights(given.weights, context.ids)
        else:
            results = weigh(given.demos, given.stores, GENERALIST, settings, given.weights)
        for line in text.weight_warnings({i: result.warnings for i, result in results.items()}):
            print(f"weights: {line}", file=sys.stderr)
        row = Row(GENERALIST)
        if settings.rounds.count:
            row = Row(GENERALIST, round=0)
            print(
                "this is the generalist before rounds (distill.rounds), which are a part of "
                "`alltrades run`",
                file=sys.stderr,
            )
        given.demos.print_statistics()
        draw_kept(given.demos, [(given, settings)])
        train_generalist(given, settings, str(row), out)
    print(f"wrote {out}")
    return 0


COMMANDS = (
    Command(
        "collect",
        "record demonstrations into a store, of scripted experts or by hand",
        "collect --environments planar --demos.episodes 10 --out demos.zarr",
        _collect_arguments,
        collect,
        appends="out",
    ),
    Command(
        "train",
        "specialists, or the labeled-only multi-task policy",
        "train specialists --environments planar --demos demos.zarr --out specialists",
        _train_arguments,
        train,
    ),
    Command(
        "rollout",
        "pseudo-trajectories of any policy into a store",
        "rollout specialists --environments planar --episodes 60 --out rollouts.zarr",
        _rollout_arguments,
        rollout,
        appends="out",
    ),
    Command(
        "weigh",
        "importance weights of rollouts against demonstrations",
        "weigh rollouts.zarr --environments planar --demos demos.zarr --out weights",
        _weigh_arguments,
        weigh,
    ),
    Command(
        "distill",
        "one generalist from the rollouts of its teachers",
        "distill --environments planar --demos demos.zarr --teacher "
        "scratch=specialists:rollouts.zarr --out generalist",
        _distill_arguments,
        distill,
    ),
)
