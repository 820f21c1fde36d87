"""`alltrades bench ranks`: training steps of several processes beside those of one."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from alltrades.bench.throughput import fresh_policy, random_steps
from alltrades.errors import UserError
from alltrades.policies.learning.batches import demonstration_data
from alltrades.policies.learning.training import Trainer
from alltrades.policies.model.threads import threads
from alltrades.policies.settings import TrainSettings
from alltrades.system import ranks
from alltrades.system.reporting import Report

WARM = 10  # steps that are not counted
GROUP = "group"
EQUAL = 1e-3  # relative difference of losses: of bf16, in which shares of a batch are computed


def shared_training(
    names: Sequence[str], steps: int, count: int, repeat: int, results: list[dict[str, Any]]
) -> Iterator[str]:
    """Yield lines for the default generalist at batch 256 with one process, with one thread and
    with all, and with `count` processes, in turn, and one for the ratio of their times: to the
    faster one of the first two. Append the same as plain values.

    Within torchrun: the time of this group alone, in one line.

    Args:
        steps: of each measurement.
        repeat: measurements of each, of which the median counts.
    """
    if steps < 1 or count < 2 or repeat < 1:
        raise UserError(
            f"--steps {steps}, --count {count}, --repeat {repeat}; expected at least 1 step, 2 "
            "processes and 1 measurement"
        )
    if ranks.count() > 1:
        results.append(_measured(names, steps))
        yield _line(results[-1])
        return
    found: dict[str, list[dict[str, Any]]] = {}
    for _ in range(repeat):
        for number in sorted({1, torch.get_num_threads()}):
            with threads(number):
                one = _measured(names, steps)
            found.setdefault(f"1 process, {number} threads", []).append(one)
            yield _line(one)
        several = _of_group(names, steps, count)
        found.setdefault(GROUP, []).append(several)
        yield _line(several)
    results += [x for measured in found.values() for x in measured]
    times = {name: median(x["ms"] for x in measured) for name, measured in found.items()}
    group, alone = times.pop(GROUP), min(times.values())
    losses = [x["loss"] for x in results]
    equal = max(losses) - min(losses) <= EQUAL * min(losses)
    results.append({"ratio": group / alone, "ok": equal})
    yield (
        f"{count} processes take {group / alone:.2f} times as long as one, with "
        f"{'equal' if equal else 'other'} losses"
    )


def _line(found: dict[str, Any]) -> str:
    return (
        f"{found['processes']} processes, {found['threads']} threads each: {found['ms']:.1f} ms "
        f"per step, {found['processor_ms']:.1f} of a processor, loss {found['loss']:.5f}"
    )


def _measured(names: Sequence[str], steps: int) -> dict[str, Any]:
    """Milliseconds per step of this group, those of a processor of its first process, and the mean
    loss.
    """
    _, policy = fresh_policy(names)
    data = demonstration_data(random_steps(policy.environments, 20000, 200), policy)
    total, begun, losses = WARM + steps, [0.0, 0.0], [0.0]

    def show(step: int, _: int) -> None:
        if step == WARM:
            begun[:] = time.perf_counter(), time.process_time()

    def record(_: str, step: int, values: Any) -> None:
        losses[0] = values["loss"]

    settings = TrainSettings(steps=total, log_every=total)
    Trainer(policy, data, settings, 0).fit(report=Report(show, record))
    spent = time.perf_counter() - begun[0], time.process_time() - begun[1]
    return {
        "processes": ranks.count(),
        "threads": torch.get_num_threads(),
        "ms": 1e3 * spent[0] / steps,
        "processor_ms": 1e3 * spent[1] / steps,
        "loss": losses[0],
    }


def _of_group(names: Sequence[str], steps: int, count: int) -> dict[str, Any]:
    """`_measured` by a group that torchrun starts."""
    with tempfile.TemporaryDirectory(prefix="alltrades-bench-") as folder:
        out = Path(folder) / "group.json"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", str(count), "-m", "alltrades", "bench", "ranks"]
        command += ["--names", *names, "--steps", str(steps), "--json", str(out)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.startswith("alltrades: ")]
            raise UserError(
                f"torchrun ended with exit code {done.returncode}: "
                f"{' '.join(said) or done.stderr[-300:]}; expected measurements of {count} "
                "processes; try it by hand"
            )
        found: dict[str, Any] = json.loads(out.read_text())[0]
        return found
