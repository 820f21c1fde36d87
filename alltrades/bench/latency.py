"""`alltrades bench latency`: time from asking to actions, in-process, by ONNX and over the server,
at a control rate.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from alltrades.bench.subject import LoadProcess, ServerProcess, artifact
from alltrades.data.examples import random_frames
from alltrades.errors import UserError
from alltrades.policies.acting import ActingPolicy

WARM_UP = 20  # calls before the first that counts
PROCESSES = 4  # of robots, at most
HEADER = (
    f"{'path':<26} {'clients':>7} {'p50':>8} {'p95':>8} {'p99':>8} {'max':>8}  missed deadlines"
)


def latency(
    folder: str | None,
    names: Sequence[str],
    clients: Sequence[int],
    rate: float,
    seconds: float,
    steps: int | None,
    batch: int,
    engine: str,
    paths: Sequence[str],
    results: list[dict[str, Any]],
    pixels: int | None = None,
) -> Iterator[str]:
    """Yield a table, a line as soon as it is measured; append the same as plain values to
    `results`.

    Milliseconds. A deadline is missed when the answer is not there at the next control tick. A
    result is ok when every robot was answered to the end.

    Args:
        folder: artifact, or None for a fresh default generalist of the environments `names`.
        clients: numbers of robots to measure with, each asking `rate` times a second for `seconds`.
        steps: sampling steps instead of the policy's own.
        batch: rows of the controller's and the server's policy calls; at most the number of
            clients.
        engine: what computes the server's actions, "torch" or "onnx"; it is compared with the same
            engine in-process.
        paths: which of `alltrades.bench.PATHS` to measure.
        pixels: a fresh generalist sees cameras of so many pixels a side in place of states.
    """
    from alltrades.policies.model.threads import threads

    if min(clients, default=0) < 1 or rate <= 0 or seconds <= 0:
        raise UserError(
            f"clients {list(clients)}, rate {rate:g}, seconds {seconds:g}; expected positive "
            "numbers"
        )
    with threads(1), artifact(folder, names, steps, pixels) as path:
        from alltrades.policies.model.loading import load_policy
        from alltrades.policies.onnx.export import compiled

        policy = load_policy(path)
        yield (
            f"{policy.parameter_count() / 1e6:.2f} M parameters, {policy.settings.sampling_steps} "
            f"steps ({policy.settings.sampler}), {rate:g} Hz each, {seconds:g} s each, milliseconds"
        )
        yield HEADER
        engines: dict[str, Any] = {"torch": policy} if "torch" in paths else {}
        if "onnx" in paths:
            try:
                engines["onnx"] = compiled(policy)
            except UserError as error:
                yield f"onnx: left out, {error}"
        for count in clients:
            found = {}
            for name, acting in engines.items():
                found[name] = in_process(acting, count, rate, seconds, batch, name)
                results.append(found[name])
                yield line(found[name])
            if "server" not in paths:
                continue
            # as many rows as in-process: a call of more takes longer, also for one robot
            with ServerProcess(
                path,
                "--engine",
                engine,
                "--batch",
                str(min(batch, count)),
                "--max-clients",
                str(count),
                "--rate-limit",
                "0",
            ) as server:
                result = over_server(server.port, count, rate, seconds, f"server, {engine}")
            if (
                count == 1 and engine in found
            ):  # several ask at the same moment in-process, and out of phase here
                result["over_in_process_p50"] = result["p50"] - found[engine]["p50"]
            results.append(result)
            yield line(result)


def line(result: dict[str, Any]) -> str:
    """One result as a line under `HEADER`."""
    numbers = " ".join(f"{result[key]:8.2f}" for key in ("p50", "p95", "p99", "max"))
    text = (
        f"{result['path']:<26} {result['clients']:>7} {numbers}  {result['missed']} of "
        f"{result['ticks']}"
    )
    if "overhead_p50" in result:
        text += f"; without the policy call p50 {result['overhead_p50']:.2f}"
    if "over_in_process_p50" in result:
        text += f", over in-process {result['over_in_process_p50']:+.2f}"
    if result["errors"]:
        text += f"; {len(result['errors'])} ERRORS, such as {result['errors'][0]}"
    return text


def summary(
    path: str,
    clients: int,
    spent: Sequence[float] | np.ndarray,
    missed: int,
    ticks: int,
    errors: Sequence[str] = (),
) -> dict[str, Any]:
    """Percentiles of durations in milliseconds."""
    values = np.asarray(spent if len(spent) else [np.nan])
    return {
        "path": path,
        "clients": clients,
        "p50": float(np.percentile(values, 50)),
        "p95": float(np.percentile(values, 95)),
        "p99": float(np.percentile(values, 99)),
        "max": float(values.max()),
        "missed": missed,
        "ticks": ticks,
        "errors": list(errors),
        "ok": len(spent) > 0 and not errors,
    }


def paced(call: Callable[[], object], rate: float, seconds: float) -> tuple[list[float], int, int]:
    """Durations in ms of a call at every tick, missed ticks, ticks; ticks gone by are missed and
    skipped.
    """
    for _ in range(WARM_UP):
        call()
    period, spent, missed, ticks = 1.0 / rate, [], 0, 0
    tick = time.perf_counter()
    end = tick + seconds
    while tick < end:
        time.sleep(max(0.0, tick - time.perf_counter()))
        start = time.perf_counter()
        call()
        now = time.perf_counter()
        spent.append(1e3 * (now - start))
        late = max(0, int((now - tick) / period))
        ticks, missed = ticks + 1 + max(0, late - 1), missed + late
        tick += period * max(1, late)
    return spent, missed, ticks


def in_process(
    policy: ActingPolicy, clients: int, rate: float, seconds: float, batch: int, name: str = "torch"
) -> dict[str, Any]:
    """A `Controller` in the robots' own process, all robots at the same tick; the time until all
    have their actions.
    """
    from alltrades.policies.control.controller import Controller

    controller = Controller(policy, lanes=clients, batch=batch)
    rng = np.random.default_rng(0)
    frames = {}
    for lane in range(clients):
        info = policy.environments[lane % len(policy.environments)]
        controller.begin(lane, info.id, lane)
        frames[lane] = random_frames(info, 1, rng, policy.sentences)
    spent, missed, ticks = paced(lambda: controller.plan(frames), rate, seconds)
    return summary(
        f"in-process, {name}, batch {controller.batch}",
        clients,
        spent,
        missed * clients,
        ticks * clients,
    )


def over_server(
    port: int, clients: int, rate: float, seconds: float, name: str = "server"
) -> dict[str, Any]:
    """`alltrades serve` on the loopback interface, robots in up to four processes, evenly out of
    phase.
    """
    processes = min(PROCESSES, clients)
    shares = [clients // processes + (i < clients % processes) for i in range(processes)]
    loads = [
        LoadProcess(
            port,
            clients=share,
            rate=rate,
            seconds=seconds,
            warmup=WARM_UP / rate,
            first=sum(shares[:i]),
            total=clients,
        )
        for i, share in enumerate(shares)
    ]
    try:
        found = [load.result() for load in loads]
    finally:
        for load in loads:
            load.kill()
    spent = np.array([x for f in found for x in f["latency"]])
    infer = np.array([x for f in found for x in f["infer"]])
    out = summary(
        name,
        clients,
        spent,
        sum(f["missed"] for f in found),
        sum(f["ticks"] for f in found),
        [e for f in found for e in f["errors"]],
    )
    return out | {"overhead_p50": float(np.median(spent - infer)) if len(spent) else float("nan")}
