"""`alltrades bench soak`: the server for a long time, while some robots are killed again
and again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from alltrades.bench.latency import summary
from alltrades.bench.memory import resident_bytes
from alltrades.bench.subject import LoadProcess, ServerProcess, artifact
from alltrades.errors import UserError

SETTLE = 300.0  # seconds after which memory should not grow any more
GROWTH = 5.0  # MiB of resident memory after that, at most
VICTIMS = 2  # robots in the process that is killed


def soak(
    folder: str | None,
    names: Sequence[str],
    clients: int,
    rate: float,
    minutes: float,
    kill_every: float,
    steps: int | None,
    engine: str,
    results: list[dict[str, Any]],
) -> Iterator[str]:
    """Yield a line now and then and the outcome; append the outcome as plain values to `results`.

    `clients` robots ask `rate` times a second for `minutes`; two more are killed (SIGKILL) every
    `kill_every` seconds and started again. Growth is that of the server's resident memory from five
    minutes (or half the time) after the start; the outcome is ok with at most 5 MiB, no error and a
    server that is alive.
    """
    seconds = 60.0 * minutes
    if seconds <= 0 or kill_every <= 0 or rate <= 0 or clients < 1:
        raise UserError("minutes, rate, kill-every and clients; expected positive numbers")
    settle = min(SETTLE, seconds / 2)
    with (
        artifact(folder, names, steps) as path,
        ServerProcess(
            path,
            "--engine",
            engine,
            "--rate-limit",
            "0",
            "--max-clients",
            str(clients + 8 * VICTIMS),
        ) as server,
    ):
        start = time.monotonic()
        steady = LoadProcess(
            server.port, clients=clients, rate=rate, seconds=seconds, total=clients
        )
        times: list[float] = []
        memory: list[int] = []
        kills, victim, born, told = (
            0,
            LoadProcess(server.port, clients=VICTIMS, rate=rate, seconds=1e9),
            start,
            start,
        )
        try:
            while (
                steady.process.poll() is None
                and server.alive
                and (now := time.monotonic()) - start < seconds
            ):
                if now - born >= kill_every:
                    victim.kill()
                    kills, born = kills + 1, now
                    victim = LoadProcess(
                        server.port, clients=VICTIMS, rate=rate, seconds=1e9, seed=kills
                    )
                times.append(now - start)
                memory.append(resident_bytes(server.pid))
                if now - told >= 60:
                    told = now
                    used = memory[-1] / 2**20
                    yield f"{(now - start) / 60:.0f} min: {used:.1f} MiB, {kills} robots killed"
                time.sleep(min(1.0, kill_every / 4))
        finally:
            victim.kill()
        alive, found = server.alive, steady.result()
    rss, at = np.array(memory) / 2**20, np.array(times)
    settled = rss[at >= settle]
    growth = float(np.median(settled[-5:]) - np.median(settled[:5]))
    out = summary(
        "soak", clients, found["latency"], found["missed"], found["ticks"], found["errors"]
    )
    out |= {
        "minutes": minutes,
        "rate": rate,
        "kills": kills,
        "growth_mib": growth,
        "settled_mib": float(np.median(settled[:5])),
        "server_alive": alive,
        "ok": alive and not found["errors"] and growth <= GROWTH,
    }
    results.append(out)
    yield (
        f"{minutes:g} min at {rate:g} Hz, {clients} robots, {kills} kills: server "
        f"{'alive' if alive else 'DEAD'}, memory {out['settled_mib']:.1f} MiB after {settle:.0f} "
        f"s, growth since {growth:+.2f} MiB"
    )
    yield (
        f"the others: {len(out['errors'])} errors, p50 {out['p50']:.2f}, p99 {out['p99']:.2f}, max "
        f"{out['max']:.2f} ms, {out['missed']} of {out['ticks']} deadlines missed"
        + "".join(f"; {e}" for e in out["errors"][:3])
    )
