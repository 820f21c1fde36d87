"""The stages of a run one by one: collect, train, rollout, weigh, distill, evaluate.

They are the stages that `run` calls, with inputs and outputs of the user's. An output folder keeps
the account of its stage, and its checkpoints, in a sub-folder.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alltrades.commands.by_hand import by_hand_arguments, check_by_hand, collect_by_hand
from alltrades.commands.command import (
    Command,
    at_least,
    demos_argument,
    n_action_steps_argument,
    preference_argument,
    recipe_arguments,
    recipe_settings,
    trust_argument,
    unknown_instruction_argument,
)
from alltrades.errors import UserError
from alltrades.policies.fetched import fetched
from alltrades.system.files import check_json
from alltrades.system.remote.place import place

if TYPE_CHECKING:
    from alltrades.pipeline.context import Context

OPEN_LOOP = ".open_loop.json"  # beside the JSON of an evaluation


@contextmanager
def _context(
    args: argparse.Namespace, out: Path | None = None, tried: bool = True
) -> Iterator[Context]:
    """What the stages of a command are given: they write in the folder `out` alone, or continue a
    store; then its environments, where they are stepped (`tried`), are checked first.
    """
    from alltrades.data.opened import Stores
    from alltrades.pipeline.context import opened
    from alltrades.pipeline.environment_checks import checked
    from alltrades.pipeline.rundir import ACCOUNT, RunDir

    stores = Stores()
    settings = recipe_settings(args, stores)[0]
    if out is None:
        with opened(settings, stores=stores) as context:
            yield checked(context) if tried else context
    else:
        with RunDir(out, what="folder", account=ACCOUNT) as rundir:
            with opened(settings, rundir.manifest, stores=stores) as context:
                yield context


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
        return collect_by_hand(args, _context)
    from alltrades.data.store import EpisodeStore
    from alltrades.pipeline.demonstrations import record

    if args.keep is not None:
        args.overrides = [*args.overrides, "--demos.keep", args.keep]
    with _context(args) as context:
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
    with _context(args, out) as context:
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
    with _context(args) as context:
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

    with _context(args, Path(args.out)) as context:
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
    with _context(args, out) as context:
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


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("policy", help="artifact, or folder with one artifact per environment")
    recipe_arguments(parser)
    parser.add_argument("--name", default=None, help="name of the row; default the folder's name")
    parser.add_argument("--out", default=None, help="JSON file of the result")
    demos_argument(
        parser,
        required=False,
        purpose="their environments are judged open loop, on their share --demos.holdout; those "
        "with a simulator are rolled out too",
    )
    parser.add_argument(
        "--open-loop", action="store_true", help="roll nothing out: only judge on --demos"
    )
    parser.add_argument(
        "--ensemble",
        type=float,
        default=None,
        metavar="M",
        help="plan at every step and execute the mean of overlapping chunks, weighted by exp(-M i) "
        "from the oldest on",
    )
    n_action_steps_argument(parser)
    preference_argument(parser)
    unknown_instruction_argument(parser)
    trust_argument(parser)


def evaluate(args: argparse.Namespace) -> int:
    """Success with intervals, returns where nothing says success; open loop on recordings."""
    from alltrades.pipeline.measurement import Manner, measure
    from alltrades.pipeline.open_loop import judge_given
    from alltrades.policies.model.preference import parse_preference
    from alltrades.report.open_loop import open_loop_text
    from alltrades.report.tables import show_result

    folder, asked = fetched(args.policy), parse_preference(args.preference)
    out = Path(args.out) if args.out else None
    if out is not None:
        check_json(out)
    if args.ensemble is not None and args.n_action_steps is not None:
        raise UserError(
            f"--n-action-steps {args.n_action_steps} with --ensemble, which plans at every step; "
            "expected one of them; leave the other out"
        )
    if args.open_loop and not args.demos:
        raise UserError("--open-loop judges on recordings; expected --demos STORE; add it")
    with _context(args, tried=not args.open_loop) as context:
        rolled_out = bool(context.simulated) and not args.open_loop
        manner = Manner(
            asked or context.settings.evaluation.preference,
            strict=bool(asked),
            n_action_steps=args.n_action_steps,
            ensemble=args.ensemble,
            unknown_instruction=args.unknown_instruction,
        )
        name, limits = args.name or folder.name, context.settings.evaluation.limits
        if args.demos or context.recorded:
            errors = out.with_suffix(OPEN_LOOP) if out is not None and rolled_out else out
            judged = judge_given(context, name, folder, errors, asked or None)
            print(open_loop_text(judged, "--out FILE" if errors is None else str(errors)))
            if errors is not None:
                print(f"wrote {errors}")
        if rolled_out:
            result = measure(context, name, folder, out, manner)
            show_result({name: result}, {"pairs": []}, {}, limits)
            if out is not None:
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
    Command(
        "evaluate",
        "success with intervals on the common evaluation starts",
        "evaluate generalist --environments planar --out generalist.json",
        _evaluate_arguments,
        evaluate,
    ),
)
