"""The stages of a run one by one: collect, train, rollout, weigh, distill, evaluate."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alltrades.commands.command import (
    Command,
    n_action_steps_argument,
    preference_argument,
    recipe_arguments,
    recipe_settings,
)
from alltrades.errors import UserError
from alltrades.system.files import write_json
from alltrades.system.lock import locked
from alltrades.system.reporting import Report

if TYPE_CHECKING:
    from alltrades.data.steps import Steps
    from alltrades.envs.spec import EnvSpec
    from alltrades.settings.run import RunSettings


def _demos(args: argparse.Namespace, settings: RunSettings, specs: Sequence[EnvSpec]) -> Steps:
    """The demonstrations that a command is to use."""
    from alltrades.pipeline import collection

    return collection.first_demos(
        Path(args.demos),
        [s.id for s in specs],
        settings.demos.episodes,
        settings.demos.observations,
    )


def _one_writer(run: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """A command that no other may join in its folder `--out` while it runs."""

    @wraps(run)
    def alone(args: argparse.Namespace) -> int:
        with locked(args.out):
            return run(args)

    return alone


def _work(out: Path, key: dict[str, Any]) -> Path:
    """Folder of checkpoints: those of an interrupted training with the same inputs, else empty."""
    from alltrades.pipeline.manifest import key_digest

    work, digest = out / "work", key_digest(key)
    marker = work / "key.txt"
    if not marker.exists() or marker.read_text() != digest:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        marker.write_text(digest)
    return work


def _collect_arguments(parser: argparse.ArgumentParser) -> None:
    recipe_arguments(parser)
    parser.add_argument("--out", required=True, help="store to write or continue")


def collect(args: argparse.Namespace) -> int:
    """Demonstrations from scripted experts."""
    from alltrades.pipeline import collection, stages
    from alltrades.system.progress import Progress

    settings, _ = recipe_settings(args)
    specs, _ = stages.resolve(settings)
    with Progress("collect", len(specs), "env") as progress:
        rates = collection.collect(
            specs,
            settings.demos.episodes,
            settings.seed,
            Path(args.out),
            settings.rollout,
            settings.demos.attempts,
            lambda done, total: progress.update(done),
        )
    for name, rate in rates.items():
        print(f"{name}: kept {rate['successes']} demonstrations of {rate['n']} tries of the expert")
    print(f"wrote {args.out}")
    return 0


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what", choices=["specialists", "specialists_joint", "labeled_only"], help="which policies"
    )
    recipe_arguments(parser)
    parser.add_argument("--demos", required=True, help="store of demonstrations")
    parser.add_argument(
        "--labeled-only", default=None, help="labeled-only policy that specialists_joint start from"
    )
    parser.add_argument("--out", required=True, help="folder of the artifact(s)")


@_one_writer
def train(args: argparse.Namespace) -> int:
    """Specialists or the labeled-only policy."""
    from alltrades.pipeline import stages
    from alltrades.pipeline.beside import Beside
    from alltrades.pipeline.rundir import policy_digests
    from alltrades.settings.rows import Row
    from alltrades.system.progress import Progress

    settings, _ = recipe_settings(args)
    specs, _ = stages.resolve(settings)
    out = Path(args.out)
    demos = _demos(args, settings, specs)
    joint = Path(args.labeled_only) if args.labeled_only else None
    work = _work(
        out,
        {
            "what": args.what,
            "settings": settings.model_dump(mode="json"),
            "demos": demos.digest(),
            "joint": policy_digests(joint) if joint else None,
        },
    )
    if args.what == "labeled_only":
        with Progress("labeled_only", settings.labeled_only.steps, "step") as progress:
            stages.train_labeled_only(
                settings,
                specs,
                demos,
                out,
                work,
                stages.stage_seed(settings.seed, "labeled_only"),
                report=Report(progress.update),
            )
        shutil.rmtree(work)
        print(f"wrote {out}")
        return 0
    kind = "scratch" if args.what == "specialists" else "joint_init"
    if kind == "joint_init" and args.labeled_only is None:
        raise UserError(
            "specialists_joint start from the labeled-only policy; none was given; add "
            "--labeled-only FOLDER"
        )
    with Progress(args.what, 1, "step") as progress:
        line = stages.train_specialists(
            settings,
            Row(kind),
            specs,
            demos,
            joint,
            out,
            work,
            report=Report(progress.update),
            beside=Beside(settings.training_count()),
        )
    shutil.rmtree(work)
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
    parser.add_argument("--episodes", type=int, default=60, help="episodes per environment")
    preference_argument(parser)
    parser.add_argument("--out", required=True, help="store to write or continue")


def rollout(args: argparse.Namespace) -> int:
    """Pseudo-trajectories."""
    from alltrades.pipeline import stages
    from alltrades.pipeline.acting import load_policies
    from alltrades.policies.model.preference import parse_preference
    from alltrades.system.progress import Progress

    settings, _ = recipe_settings(args)
    specs, _ = stages.resolve(settings)
    policies = load_policies(
        Path(args.policy), specs, settings.device, parse_preference(args.preference)
    )
    with Progress("rollout", args.episodes * len(specs), "episode") as progress:
        stages.rollout_store(
            policies,
            specs,
            args.episodes,
            stages.stage_seed(settings.seed, f"rollouts/{args.teacher}"),
            args.teacher,
            Path(args.out),
            settings.rollout,
            each=lambda done, total: progress.update(done),
        )
    for name, facts in stages.rollout_statistics(Path(args.out)).items():
        print(
            f"{name}: {facts['successes']} of {facts['n']} episodes succeeded, {facts['steps']} "
            "steps"
        )
    print(f"wrote {args.out}")
    return 0


def _weigh_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "rollouts",
        nargs="+",
        help="store of rollouts; of several teachers in the order that distill gets them",
    )
    recipe_arguments(parser)
    parser.add_argument("--demos", required=True, help="store of demonstrations")
    parser.add_argument("--out", required=True, help="folder of the weights")


@_one_writer
def weigh(args: argparse.Namespace) -> int:
    """Importance weights."""
    from alltrades.pipeline import stages
    from alltrades.pipeline.stage2_inputs import save_weights

    settings, _ = recipe_settings(args)
    specs, _ = stages.resolve(settings)
    demos = _demos(args, settings, specs)
    rollouts = stages.union_of_rollouts(
        {x: Path(x) for x in args.rollouts}, specs, settings.distill.rollouts
    )
    results = stages.weigh(
        demos, rollouts, settings.distill, stages.stage_seed(settings.seed, "distill/generalist")
    )
    save_weights(Path(args.out), results, demos, rollouts, settings.distill.weights)
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
    parser.add_argument("--demos", required=True, help="store of demonstrations")
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


@_one_writer
def distill(args: argparse.Namespace) -> int:
    """A generalist."""
    from alltrades.pipeline import stages
    from alltrades.pipeline.rundir import policy_digests
    from alltrades.pipeline.stage2_inputs import load_weights, read_teachers
    from alltrades.report import text
    from alltrades.system.files import tree_digest
    from alltrades.system.progress import Progress

    settings, _ = recipe_settings(args)
    specs, _ = stages.resolve(settings)
    teachers, stores = read_teachers(args.teacher, specs, settings.device)
    initial = (
        Path(args.labeled_only)
        if settings.distill.init == "labeled_only" and args.labeled_only
        else None
    )
    if settings.distill.init == "labeled_only" and initial is None:
        raise UserError(
            "distill.init is labeled_only and no policy was given; add --labeled-only FOLDER"
        )
    demos = _demos(args, settings, specs)
    rollouts = stages.union_of_rollouts(stores, specs, settings.distill.rollouts)
    seed = stages.stage_seed(settings.seed, "distill/generalist")
    if args.weights is not None:
        weights = load_weights(Path(args.weights), demos, rollouts, settings.distill.weights)
    else:
        weights = stages.weigh(demos, rollouts, settings.distill, seed)
    for line in text.weight_warnings({name: result.warnings for name, result in weights.items()}):
        print(f"weights: {line}", file=sys.stderr)
    if settings.distill.rounds.count:
        print(
            "this is the generalist before rounds (distill.rounds), which are a part of "
            "`alltrades run`",
            file=sys.stderr,
        )
    out = Path(args.out)
    work = _work(
        out,
        {
            "settings": settings.model_dump(mode="json"),
            "demos": demos.digest(),
            "rollouts": rollouts.digest(),
            "teachers": {
                kind: {i: p.digest() for i, p in of_env.items()}
                for kind, of_env in teachers.items()
            },
            "initial": policy_digests(initial) if initial else None,
            "weights": tree_digest(Path(args.weights)) if args.weights else None,
        },
    )
    with Progress("distill", settings.distill.train.steps, "step") as progress:
        stages.distill(
            settings,
            settings.distill,
            specs,
            demos,
            rollouts,
            weights,
            teachers,
            initial,
            out,
            work,
            seed,
            report=Report(progress.update),
        )
    shutil.rmtree(work)
    print(f"wrote {out}")
    return 0


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("policy", help="artifact, or folder with one artifact per environment")
    recipe_arguments(parser)
    parser.add_argument("--name", default=None, help="name of the row; default the folder's name")
    parser.add_argument("--out", default=None, help="JSON file of the result")
    parser.add_argument(
        "--ensemble",
        type=float,
        default=None,
        metavar="M",
        help="plan at every step and execute the mean of "
        "overlapping chunks, weighted by exp(-M i) from the oldest on",
    )
    n_action_steps_argument(parser)
    preference_argument(parser)


def evaluate(args: argparse.Namespace) -> int:
    """Success with intervals."""
    from alltrades.pipeline import stages
    from alltrades.pipeline.acting import load_policies, prefer, used_success_signal
    from alltrades.policies.model.preference import parse_preference
    from alltrades.report.tables import show_result
    from alltrades.system.progress import Progress

    settings, _ = recipe_settings(args)
    specs, _ = stages.resolve(settings)
    folder = Path(args.policy)
    preference = parse_preference(args.preference)
    policies = load_policies(folder, specs, settings.device, preference)
    prefer(policies, preference or settings.evaluation.preference)
    for policy in policies.values():
        policy.set_n_action_steps(args.n_action_steps)
    name = args.name or folder.name
    with Progress("evaluate", settings.evaluation.episodes * len(specs), "episode") as progress:
        result = stages.evaluate_row(
            name,
            policies,
            specs,
            settings,
            used_success_signal(folder),
            each=lambda done, total: progress.update(done),
            ensemble=args.ensemble,
        )
    show_result({name: result}, {"pairs": []}, {}, settings.evaluation.limits)
    if args.out:
        write_json(Path(args.out), result.to_json())
        print(f"wrote {args.out}")
    return 0


COMMANDS = (
    Command(
        "collect",
        "record demonstrations of scripted experts into a store",
        "collect --environments planar --demos.episodes 10 --out demos.zarr",
        _collect_arguments,
        collect,
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
