"""Policies that leave the computer they were trained on: export, serve, deploy."""

from __future__ import annotations

import argparse
from pathlib import Path

from alltrades.commands.command import (
    Command,
    at_least,
    n_action_steps_argument,
    preference_argument,
    trust_argument,
    unknown_instruction_argument,
)
from alltrades.errors import UserError
from alltrades.system.remote.place import is_remote


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("policy", help="artifact folder")
    parser.add_argument("--out", default=None, help="ONNX file; default POLICY/export.onnx")
    parser.add_argument(
        "--batch", type=at_least(1), default=None, help="fixed batch size; default dynamic"
    )
    parser.add_argument(
        "--observations",
        default=None,
        metavar="STORE",
        help="check the graph on 1,000 observations of this store, too, not on random ones alone",
    )
    parser.add_argument(
        "--instructions",
        nargs="+",
        default=[],
        metavar="SENTENCE",
        help="further sentences that the graph can read, of a policy that reads sentences; those "
        "of its training it can anyway",
    )
    n_action_steps_argument(parser)
    preference_argument(parser)
    trust_argument(parser)


def export(args: argparse.Namespace) -> int:
    """ONNX."""
    from alltrades.data.store import EpisodeStore
    from alltrades.policies.model.loading import load_policy
    from alltrades.policies.model.preference import parse_preference
    from alltrades.policies.onnx.export import export_onnx
    from alltrades.policies.onnx.parity import observed_windows

    if not args.out and is_remote(args.policy):
        raise UserError(f"export of {args.policy} without --out; expected a path to write; add it")
    out = Path(args.out) if args.out else Path(args.policy) / "export.onnx"
    policy = (
        load_policy(args.policy)
        .set_preference(parse_preference(args.preference))
        .set_n_action_steps(args.n_action_steps)
    )
    if args.instructions and not (policy.reading and all(s.strip() for s in args.instructions)):
        raise UserError(
            f"--instructions {' '.join(map(repr, args.instructions))}; expected sentences, and a "
            "policy that reads them (--policy.text.encoder); leave it out"
        )
    policy.hear_all(args.instructions)
    given = (
        None
        if args.observations is None
        else observed_windows(policy, EpisodeStore.open(args.observations))
    )
    found = export_onnx(policy, out, args.batch, given)
    print(
        f"wrote {out} and {out.with_suffix('.json')}; at most {found.max_error:.1e} of the action "
        f"range from PyTorch over {found.rows - found.observed} random and {found.observed} "
        "recorded observations"
    )
    return 0


def _serve_arguments(parser: argparse.ArgumentParser) -> None:
    from alltrades.commands.flags import add_flags
    from alltrades.policies.server.settings import ServerSettings

    parser.add_argument("policy", help="artifact folder")
    add_flags(parser, ServerSettings, without=["guard"])  # nobody turns it off by a typing error
    parser.add_argument(
        "--threads", type=at_least(1), default=1, help="processor threads of a policy call"
    )
    parser.add_argument("--device", default="cpu", help="where the policy runs, such as cuda")
    preference_argument(parser)
    unknown_instruction_argument(parser)
    trust_argument(parser)


def serve(args: argparse.Namespace) -> int:
    """The policy server."""
    import torch

    from alltrades.commands.flags import settings_from_flags
    from alltrades.policies.model.loading import load_policy
    from alltrades.policies.model.preference import parse_preference
    from alltrades.policies.server import ServerSettings, serve_forever
    from alltrades.robots.fit import check_device

    settings = settings_from_flags(ServerSettings, args)
    if settings.watch and is_remote(args.policy):
        raise UserError(
            f"--watch with {args.policy}; expected a folder of this machine, which can be looked "
            "at every second; leave it out, and send SIGHUP when the policy was changed"
        )
    check_device(args.device)
    if settings.engine == "onnx" and torch.device(args.device).type != "cpu":
        raise UserError(
            f"--engine onnx with --device {args.device}; it computes on the processor; leave one "
            "of them out"
        )
    torch.set_num_threads(args.threads)

    def announce(address: str) -> None:
        print(f"serving {args.policy} at {address}", flush=True)
        if settings.dashboard:
            print(f"operator's page: {address.replace('ws', 'http', 1)}/dashboard", flush=True)

    policy = load_policy(args.policy, args.device).set_preference(parse_preference(args.preference))
    policy.set_unknown_instruction(args.unknown_instruction)
    for encoder in policy.reading:
        encoder.load()  # robots would wait meanwhile
    serve_forever(policy, settings, args.policy, announce=announce)
    return 0


def _deploy_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "artifact", help="policy folder, exported .onnx file, or ws://HOST:PORT of a server"
    )
    parser.add_argument(
        "--robot",
        required=True,
        metavar="ROBOT",
        help="gym:ID or env:ID, an environment that waits; mujoco:ID or mujoco:FILE.xml, in real "
        "time; MODULE:CLASS, your own",
    )
    parser.add_argument(
        "--environment",
        default=None,
        metavar="ID",
        help="which of the policy's environments the robot is; default what the robot says, or the "
        "only one",
    )
    parser.add_argument("--episodes", type=at_least(1), default=1, help="number of episodes")
    parser.add_argument(
        "--steps",
        type=at_least(1),
        default=None,
        help="most actions of an episode; default the environment's limit",
    )
    parser.add_argument(
        "--mode",
        choices=["sync", "async", "ensemble"],
        default="sync",
        help="sync: the robot waits for every chunk; async: the next one is drawn while it moves "
        "(real-time chunking); ensemble: one is drawn at every step, and overlapping chunks are "
        "averaged",
    )
    parser.add_argument(
        "--rate",
        type=float,
        default=None,
        metavar="HZ",
        help="control rate; default the robot's. Limits per control step are scaled by (the rate "
        "they were declared for) / HZ, those of acceleration by its square, so that limits per "
        "second stay",
    )
    parser.add_argument(
        "--fast", action="store_true", help="as fast as possible (gym:ID and env:ID)"
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=1.0,
        metavar="SECONDS",
        help="without a fresh action (no new observation of the robot, or no answer of the policy) "
        "after which the robot is stopped",
    )
    parser.add_argument(
        "--limits",
        default=None,
        metavar="FILE",
        help="YAML file of action limits by environment: low, high, rate, acceleration, the last "
        "two per control step of the environment",
    )
    parser.add_argument(
        "--record", default=None, metavar="STORE", help="store of episodes to write or continue"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the episodes' starts and of the policy's noise"
    )
    parser.add_argument("--json", default=None, metavar="FILE", help="file for the figures")
    parser.add_argument(
        "--plugins", nargs="*", default=[], help="modules or files that register environments"
    )
    parser.add_argument(
        "--token-file", default=None, help="file with the secret that the server wants"
    )
    parser.add_argument(
        "--certificate", default=None, help="PEM certificate of a wss:// server to trust"
    )
    parser.add_argument(
        "--threads", type=at_least(1), default=1, help="processor threads of a policy call"
    )
    parser.add_argument("--device", default="cpu", help="where a policy folder runs, such as cuda")
    preference_argument(parser)
    unknown_instruction_argument(parser)
    trust_argument(parser)


def deploy(args: argparse.Namespace) -> int:
    """A policy on a robot."""
    from alltrades.robots.deploy import deploy as run_deploy

    return run_deploy(args)


COMMANDS = (
    Command(
        "export",
        "one ONNX graph with normaliser and sampling loop",
        "export runs/quickstart/policies/generalist",
        _export_arguments,
        export,
        settings=False,
    ),
    Command(
        "serve",
        "policy server (websocket)",
        "serve runs/quickstart/policies/generalist --port 8000",
        _serve_arguments,
        serve,
        settings=False,
    ),
    Command(
        "deploy",
        "run a policy on a robot, and record it",
        "deploy runs/quickstart/policies/generalist --robot mujoco:planar/reach --record "
        "robot.zarr",
        _deploy_arguments,
        deploy,
        appends="record",
        settings=False,
    ),
)
