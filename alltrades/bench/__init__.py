"""`alltrades bench`: the hot paths, timed on this machine. Figures belong here, never in tests."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

PATHS = ("torch", "onnx", "server")  # of `latency`: in-process with each engine, over the server


def measure(args: argparse.Namespace, results: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of one bench as they come; what can be told in plain values is appended to
    `results`.
    """
    names = args.names or ["planar"]
    if args.what == "delay":
        from alltrades.bench.delay import delay

        return delay(
            args.policy,
            args.names,
            args.delay_ms,
            args.episodes,
            args.every,
            args.overlap,
            args.steps,
            results,
        )
    if args.what == "latency":
        from alltrades.bench.latency import latency

        return latency(
            args.policy,
            names,
            args.clients or (1, 4, 16, 64),
            args.rate or 10.0,
            args.seconds,
            args.steps,
            args.batch,
            args.engine,
            args.paths,
            results,
            args.pixels,
        )
    if args.what == "soak":
        from alltrades.bench.soak import soak

        return soak(
            args.policy,
            names,
            sum(args.clients or (8,)),
            args.rate or 50.0,
            args.minutes,
            args.kill_every,
            args.steps,
            args.engine,
            results,
        )
    if args.what == "render":
        from alltrades.bench.rendering import rendering

        return rendering(names, args.seconds, results)
    if args.what == "data":
        from alltrades.bench.recordings import recordings

        return recordings(args.data, results)
    if args.what == "remote":
        from alltrades.bench.remote import remote

        return remote(args.data, results)
    if args.what == "store":
        from alltrades.bench.store import store

        updates = _count(args, 5)
        sizes = args.steps, args.environments
        return store(*sizes, args.sweep, updates, args.seed, args.data, results)
    if args.what == "images":
        from alltrades.bench.images import images

        return images(args.seconds, _count(args, 4000), results)
    if args.what == "kills":
        from alltrades.bench.kills import kills

        return kills(args.kinds or (), _count(args, 20), args.seed, results)
    if args.what == "malformed":
        from alltrades.bench.malformed import malformed

        return malformed(args.policy, names, args.messages, results)
    if args.what == "damage":
        from alltrades.bench.damage import damage

        return damage(args.kinds, _count(args, 1000), args.seed, results)
    if args.what == "ranks":
        from alltrades.bench.ranks import shared_training

        return shared_training(
            names,
            args.kinds or (),
            100 if args.steps is None else args.steps,
            _count(args, 2),
            3 if args.repeat is None else args.repeat,
            results,
        )
    if args.what == "cluster":
        from alltrades.bench.cluster import overhead

        repeat = 3 if args.repeat is None else args.repeat
        return overhead(names, _count(args, 2), repeat, args.episodes, results)
    if args.what == "start":
        from alltrades.bench.start import start

        return start(
            args.policy, names, 10 if args.repeat is None else args.repeat, args.steps, results
        )
    from alltrades.bench import throughput

    return {
        "envs": throughput.envs,
        "train": throughput.train,
        "sample": throughput.sample,
        "rollout": throughput.rollouts,
    }[args.what](names, args.seconds)


def _count(args: argparse.Namespace, default: int) -> int:
    return default if args.count is None else int(args.count)
