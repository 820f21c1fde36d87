"""`alltrades collect --teleop`: demonstrations by hand, in simulation and on a robot."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alltrades.commands.command import at_least, recipe_settings
from alltrades.commands.stage_context import stage_context
from alltrades.errors import UserError
from alltrades.policies.fetched import fetched
from alltrades.system.remote.place import place

if TYPE_CHECKING:
    from alltrades.data.interface import Interface
    from alltrades.robots.teleop.collect import Place

DEFAULTS: dict[str, Any] = {  # of what needs --teleop
    "robot": None,
    "environment": None,
    "actor": None,
    "takeover": "move",
    "drive": ["auto"],
    "speed": 0.5,
    "episodes": None,
    "steps": None,
    "rate": None,
    "timeout": 1.0,
    "limits": None,
    "no_window": False,
}


def by_hand_arguments(parser: argparse.ArgumentParser) -> None:
    """What `collect` takes besides, to record by hand."""
    parser.add_argument(
        "--teleop",
        default=None,
        metavar="LEADER",
        help="record by hand: keyboard, gamepad, or MODULE:CLASS, your own leader",
    )
    parser.add_argument(
        "--robot",
        default=None,
        metavar="ROBOT",
        help="with --teleop: a robot, named as in `deploy`, in place of --environments",
    )
    parser.add_argument(
        "--environment", default=None, metavar="ID", help="which environment the robot is"
    )
    parser.add_argument(
        "--policy",
        dest="actor",
        default=None,
        help="with --teleop: a policy's folder or .onnx file that acts until the person takes over",
    )
    parser.add_argument(
        "--takeover",
        choices=["move", "key"],
        default="move",
        help="move: whoever moves the leader, or presses T, takes over; key: T alone, for a leader "
        "that always says something",
    )
    parser.add_argument(
        "--drive",
        nargs="+",
        default=["auto"],
        metavar="WAY",
        help="keys and sticks: velocity, position or auto, for all actions or one for each; "
        "default auto, from what the environment says of its actions",
    )
    parser.add_argument(
        "--speed", type=float, default=0.5, help="keys and sticks: share of the full speed, up to 1"
    )
    parser.add_argument(
        "--episodes",
        type=at_least(1),
        default=None,
        help="with --teleop: episodes of every environment to keep; default until you quit",
    )
    parser.add_argument(
        "--steps", type=at_least(1), default=None, help="with --teleop: most of an episode"
    )
    parser.add_argument(
        "--rate", type=float, default=None, metavar="HZ", help="with --teleop: control rate"
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=1.0,
        metavar="SECONDS",
        help="without an observation or an action after which a robot is stopped",
    )
    parser.add_argument(
        "--limits", default=None, metavar="FILE", help="limits of a robot's actions, as in `deploy`"
    )
    parser.add_argument(
        "--no-window",
        action="store_true",
        help="open no window: for a gamepad, or a leader with commands of its own",
    )


def check_by_hand(args: argparse.Namespace) -> None:
    """UserError for options that mean nothing without --teleop."""
    for name, default in DEFAULTS.items():
        if args.teleop is None and getattr(args, name) != default:
            option = "policy" if name == "actor" else name.replace("_", "-")
            remedy = ", or write --environments" if name == "environment" else ""
            raise UserError(
                f"--{option} without --teleop, which records by hand; expected both, or neither; "
                f"add --teleop keyboard{remedy}"
            )
    simulated = any(token.split("=")[0] == "--environments" for token in args.overrides)
    if args.environment is not None and args.robot is None:
        raise UserError(
            f"--environment {args.environment} says what a robot is, and there is no --robot; "
            "expected simulated environments by --environments; write that, or add --robot"
        )
    if args.robot is not None and simulated:
        raise UserError(
            f"--environments with --robot {args.robot}; expected either; say which environment the "
            "robot is by --environment"
        )
    if args.actor is not None and args.actor.partition("://")[0] in ("ws", "wss"):
        raise UserError(
            f"--policy {args.actor}: a server's policy cannot be taken over from; expected a "
            "folder, or an exported .onnx file; give its folder"
        )
    if args.teleop is not None and args.keep is not None:
        raise UserError(
            f"--keep {args.keep} with --teleop; by hand you say of every episode whether it is "
            "kept; leave --keep out"
        )


def collect_by_hand(args: argparse.Namespace) -> int:
    """Record until the person quits."""
    from alltrades.robots.deploy import logging_aside
    from alltrades.robots.signals import StopSignals
    from alltrades.robots.teleop.collect import record
    from alltrades.robots.teleop.desk import Desk
    from alltrades.robots.teleop.station import Manner

    manner = Manner(
        args.teleop,
        tuple(args.drive),
        args.speed,
        args.takeover == "key",
        args.rate,
        args.steps,
        args.timeout,
        args.limits,
    )
    out = place(args.out)
    with logging_aside(), StopSignals() as signals, ExitStack() as stack:
        if args.robot is None:
            seed, places = _simulated(args, stack)
        else:
            seed, places = _real(args, out, stack)
        facts: dict[str, Any] = {"leader": args.teleop, "robot": args.robot}
        if places[0].policy is not None:
            facts |= {"policy": args.actor, "digest": places[0].policy.digest()}
        desk = Desk(args.teleop, not args.no_window)
        stack.callback(desk.close)
        stack.callback(signals.ignore)  # called first: a robot is closed to the end
        kept = record(places, manner, out, seed, desk, signals, args.episodes, facts)
    for name, count in kept.items():
        print(f"{name}: kept {count} episodes by hand")
    print(f"wrote {args.out}")
    return 0


def _simulated(args: argparse.Namespace, stack: ExitStack) -> tuple[int, list[Place]]:
    """The settings' seed, and their environments."""
    from alltrades.envs.robots.environment import EnvironmentRobot
    from alltrades.pipeline.acting import load_policies
    from alltrades.robots import fit
    from alltrades.robots.teleop.collect import Place

    if args.actor is not None:
        args.policy = args.actor  # whose environments are taken where none are named
    context = stack.enter_context(stage_context(args))
    missing = [s.id for s in context.specs if not s.simulated]
    if missing:
        raise UserError(
            f"no simulator of {', '.join(missing)}; expected environments that can be stepped, "
            "or a robot; give --robot, or others with --environments"
        )
    specs, policies = context.recording, {}
    if args.actor is not None:
        if args.actor.endswith(".onnx"):
            policies = dict.fromkeys((s.id for s in specs), _policy(args.actor))
        else:
            policies = load_policies(fetched(args.actor), specs, context.settings.device)
    places = []
    for spec in specs:
        robot, policy = EnvironmentRobot(spec), policies.get(spec.id)
        info = spec.interface
        if policy is not None:
            info = fit.environment_of(policy.environments, robot, spec.id)
        stack.callback(robot.close)
        places.append(Place(robot, info, policy, "" if policy is None else Path(args.actor).stem))
    return context.settings.seed, places


def _real(args: argparse.Namespace, out: Path, stack: ExitStack) -> tuple[int, list[Place]]:
    """The settings' seed, and a robot by its name."""
    from alltrades.data.store import EpisodeStore
    from alltrades.envs import registry
    from alltrades.envs.robots.load import load_robot
    from alltrades.robots import fit
    from alltrades.robots.deploy import bring_plugins
    from alltrades.robots.teleop.collect import Place
    from alltrades.robots.teleop.station import interface_of

    settings = recipe_settings(args)[0]
    registry.load_plugins(settings.plugins)
    policy = None
    if args.actor is not None:
        policy = _policy(args.actor)
        if not settings.plugins:
            bring_plugins(args.robot, Path(args.actor))
    robot = load_robot(args.robot)
    stack.callback(robot.close)
    if policy is not None:
        info = fit.environment_of(policy.environments, robot, args.environment)
    else:
        known: list[Interface] = []
        name = args.environment or robot.environment
        if (out / "commit.json").exists():
            known += EpisodeStore.open(out).interfaces().values()
        if name is not None and registry.knows([name]):
            known.append(registry.get(name).interface)
        info = interface_of(robot, args.environment, known)
    place = Place(robot, info, policy, "" if policy is None else Path(args.actor).stem)
    return settings.seed, [place]


def _policy(artifact: str) -> Any:
    from alltrades.robots import fit

    return fit.open_policy(artifact)
