"""Robots for the benches: several connections in one process, each asking at its control rate.

Run as `python -m alltrades.bench.load '{"port": 8000, "clients": 4, "rate": 10, "seconds": 5}'`;
writes one line of JSON.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from array import array
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from alltrades.data.examples import random_observation
from alltrades.data.interface import Interface
from alltrades.policies.client.messages import pack, require, unpack


@dataclass
class Load:
    """What to do: `clients` connections that ask `rate` times a second for `seconds`, after
    `warmup` seconds.
    """

    port: int
    clients: int
    rate: float
    seconds: float
    warmup: float = 0.5
    seed: int = 0
    first: int = 0  # number of the first client: shifts its environment and its phase
    total: int = 0  # clients of all processes together


@dataclass
class Measured:
    """Milliseconds of each request (sending to reply) and of the policy call in it, ticks without
    an answer in time.
    """

    latency: array = field(default_factory=lambda: array("f"))
    infer: array = field(default_factory=lambda: array("f"))
    ticks: int = 0
    missed: int = 0
    errors: list[str] = field(default_factory=list)


async def robot(load: Load, number: int, start: float, out: Measured) -> None:
    """One connection. A tick is missed when its answer comes after the next tick is due; ticks gone
    by are skipped.
    """
    connect = require("websockets.asyncio.client").connect
    rng = np.random.default_rng((load.seed, number))
    period = 1.0 / load.rate
    try:
        async with connect(
            f"ws://127.0.0.1:{load.port}", compression=None, proxy=None, open_timeout=60
        ) as socket:
            environments = unpack(await socket.recv())["environments"]
            mine = Interface.from_json(environments[number % len(environments)])
            message = {
                "observation": random_observation(mine, rng),
                "environment": mine.id,
                "seed": number,
            }
            data = pack(message)
            tick = start + period * (number + 1) / (load.total or load.clients)
            if tick < time.perf_counter():  # connecting took longer than planned
                tick = time.perf_counter() + period
            measured_from, end = tick + load.warmup, tick + load.warmup + load.seconds
            while tick < end:
                await asyncio.sleep(max(0.0, tick - time.perf_counter()))
                sent = time.perf_counter()
                await socket.send(data)
                reply = await socket.recv()
                now = time.perf_counter()
                if isinstance(reply, str):
                    raise RuntimeError(reply)
                answer = unpack(reply)
                late = max(0, int((now - tick) / period))  # ticks that went by without an action
                if tick >= measured_from:
                    out.latency.append(1e3 * (now - sent))
                    out.infer.append(answer["server_timing"]["infer_ms"])
                    out.ticks += 1 + max(0, late - 1)
                    out.missed += late
                tick += period * max(1, late)
    except Exception as error:
        out.errors.append(f"client {number}: {type(error).__name__}: {error}"[:200])


async def run(load: Load) -> Measured:
    """All robots of this process, evenly out of phase."""
    out = Measured()
    start = time.perf_counter() + 0.2 + 0.02 * load.clients
    gc.collect()
    gc.freeze()  # pauses of the collector would look like latency
    await asyncio.gather(*(robot(load, load.first + i, start, out) for i in range(load.clients)))
    return out


def main(argument: str) -> None:
    options: dict[str, Any] = json.loads(argument)
    out = asyncio.run(run(Load(**options)))
    json.dump(
        {
            "latency": [round(x, 4) for x in out.latency],
            "infer": [round(x, 4) for x in out.infer],
            "ticks": out.ticks,
            "missed": out.missed,
            "errors": out.errors,
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main(sys.argv[1])
