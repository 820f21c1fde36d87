"""What is there and how fast it is: bench, data, doctor."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from alltrades.commands import data
from alltrades.commands.command import Command, at_least, no_arguments, positive, trust_argument
from alltrades.system.files import write_json


def _bench_arguments(parser: argparse.ArgumentParser) -> None:
    from alltrades.bench import PATHS

    parser.add_argument(
        "what",
        choices=[
            "envs",
            "train",
            "ranks",
            "sample",
            "rollout",
            "cluster",
            "images",
            "render",
            "data",
            "remote",
            "store",
            "latency",
            "soak",
            "malformed",
            "delay",
            "start",
            "damage",
            "kills",
        ],
        help="hot path to time; store makes large stores; ranks sets processes of torchrun beside "
        "one; cluster sets workers of Ray beside processes; five from latency on "
        "concern deployment; damage harms files of every kind and uses them; kills ends commands "
        "at random moments and starts them again",
    )
    parser.add_argument("--seconds", type=positive, default=2.0, help="time per measurement")
    parser.add_argument(
        "--names",
        nargs="*",
        default=None,
        help="environments, where they matter; default planar, for delay those of the policy",
    )
    parser.add_argument(
        "--policy",
        default=None,
        help="artifact folder (start: or an .onnx file); default a fresh default generalist",
    )
    parser.add_argument(
        "--steps",
        type=at_least(1),
        default=None,
        help="sampling steps instead of the policy's own; gradient steps (ranks), default 100; of "
        "the store that is made (store), default 1,000,000",
    )
    parser.add_argument(
        "--environments",
        type=int,
        default=None,
        metavar="N",
        help="how many the store has that is made (store), default 10",
    )
    parser.add_argument(
        "--sweep",
        action="store_true",
        help="stores of 10^4 to 10^7 steps and 10 to 1,000 environments, and the slopes (store)",
    )
    parser.add_argument(
        "--clients",
        type=at_least(1),
        nargs="+",
        default=None,
        help="latency: numbers of robots, default 1 4 16 64; soak: robots, default 8",
    )
    parser.add_argument(
        "--rate",
        type=positive,
        default=None,
        help="requests per second of each robot; latency 10, soak 50",
    )
    parser.add_argument(
        "--batch", type=at_least(1), default=8, help="rows of a policy call (latency)"
    )
    parser.add_argument(
        "--engine", choices=["torch", "onnx"], default="torch", help="of the server (latency, soak)"
    )
    parser.add_argument(
        "--pixels",
        type=at_least(1),
        default=None,
        metavar="N",
        help="a fresh generalist sees pictures of N x N from every camera, in place of states "
        "(latency)",
    )
    parser.add_argument(
        "--paths",
        nargs="+",
        choices=PATHS,
        default=list(PATHS),
        help="in-process by engine, and over the server (latency)",
    )
    parser.add_argument(
        "--kinds",
        nargs="+",
        default=None,
        metavar="KIND",
        help="of files (damage); run, collect, append, train, deploy (kills); states, images "
        "(ranks); default all",
    )
    parser.add_argument(
        "--count",
        type=at_least(1),
        default=None,
        help="mutations of each kind of files (damage), default 1,000; kills, default 20; frames "
        "of a store (images), default 4,000; processes (ranks) or workers (cluster), default "
        "2; training steps that are timed (store), default 5",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="of the mutations (damage), of the moments (kills), of the numbers (store)",
    )
    parser.add_argument("--minutes", type=positive, default=60.0, help="length (soak)")
    parser.add_argument(
        "--kill-every",
        type=positive,
        default=10.0,
        help="seconds between two kills of robots (soak)",
    )
    parser.add_argument(
        "--messages", type=at_least(1), default=100_000, help="number of messages (malformed)"
    )
    parser.add_argument(
        "--delay-ms",
        type=float,
        default=60.0,
        help="time that a reply is withheld, in simulated time (delay)",
    )
    parser.add_argument(
        "--episodes", type=at_least(1), default=20, help="episodes per environment (delay, cluster)"
    )
    parser.add_argument(
        "--every",
        type=at_least(1),
        default=None,
        help="steps between requests (delay); default the policy's n_action_steps less the delay",
    )
    parser.add_argument(
        "--overlap",
        type=at_least(0),
        default=0,
        help="steps over which the last chunk pulls (delay); default none",
    )
    parser.add_argument(
        "--data",
        default=None,
        metavar="FOLDER",
        help="with a LeRobot data set and a Zarr store to import (data); default made ones; "
        "address of an object store's folder to write (remote); where stores are made (store)",
    )
    parser.add_argument(
        "--json",
        default=None,
        help="file for the results (ranks, cluster, data, remote, store, latency, soak, malformed, "
        "delay, start, damage, kills)",
    )
    parser.add_argument(
        "--repeat",
        type=at_least(1),
        default=None,
        help="processes that are started, one after another (start), default 10; measurements "
        "(ranks, cluster), default 3",
    )
    trust_argument(parser)


def bench(args: argparse.Namespace) -> int:
    """Time the hot paths; exit code 1 when something is wrong that is no figure, such as a robot
    that got an error.
    """
    from alltrades import bench as module

    results: list[dict[str, Any]] = []
    for line in module.measure(args, results):
        print(line, flush=True)
    if args.json is not None:
        write_json(Path(args.json), results)
        print(f"wrote {args.json}")
    return 0 if all(result.get("ok", True) for result in results) else 1


def doctor(args: argparse.Namespace) -> int:
    """What is installed."""
    from alltrades.commands.doctor import check, render

    checks = check()
    render(checks)
    return 0 if all(c.ok for c in checks) else 1


COMMANDS = (
    Command(
        "bench",
        "time the hot paths",
        "bench envs --names planar",
        _bench_arguments,
        bench,
        settings=False,
    ),
    data.COMMAND,
    Command(
        "doctor",
        "what is installed and what is missing",
        "doctor",
        no_arguments,
        doctor,
        settings=False,
    ),
)
