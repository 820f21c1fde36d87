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
from alltrades.data.actions import ActionSpec
from alltrades.data.fields import Field
from alltrades.data.interface import Interface
from alltrades.data.layout import Layout
from alltrades.errors import UserError
from alltrades.policies.learning.batches import TrainingData, demonstration_data
from alltrades.policies.learning.initial import build_policy
from alltrades.policies.learning.training import Trainer
from alltrades.policies.model.normalizer import Normalizer
from alltrades.policies.model.policy import DiffusionPolicy
from alltrades.policies.model.threads import threads
from alltrades.policies.settings import PolicySettings, TrainSettings
from alltrades.system import ranks
from alltrades.system.reporting import Report

WARM = 10  # steps that are not counted
EQUAL = 1e-2  # relative difference of losses: of bf16, in which shares of a batch are computed
KINDS = {"states": 256, "images": 64}  # what is seen -> windows per step
SIDE = 64  # pixels of images


def shared_training(
    names: Sequence[str],
    kinds: Sequence[str],
    steps: int,
    count: int,
    repeat: int,
    results: list[dict[str, Any]],
) -> Iterator[str]:
    """Yield lines for the default generalist with one process, with one thread and with all, and
    with `count` processes, in turn, and one for the ratio of their times: to the faster one of the
    first two. Append the same as plain values.

    Within torchrun: the time of this group alone, in one line.

    Args:
        names: environments whose states are seen.
        kinds: of `KINDS`.
        steps: of each measurement.
        repeat: measurements of each, of which the median counts.
    """
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or steps < 1 or count < 2 or repeat < 1:
        raise UserError(
            f"--kinds {' '.join(kinds)}, --steps {steps}, --count {count}, --repeat {repeat}; "
            f"expected some of {', '.join(KINDS)}, at least 1 step, 2 processes and 1 measurement"
        )
    for kind in kinds or KINDS:
        if ranks.count() > 1:
            results.append(_measured(kind, names, steps))
            yield _line(results[-1])
            continue
        found: dict[int, list[dict[str, Any]]] = {}  # by threads of one process; 0: the group
        for _ in range(repeat):
            for number in sorted({1, torch.get_num_threads()}):
                with threads(number):
                    found.setdefault(number, []).append(_measured(kind, names, steps))
                yield _line(found[number][-1])
            found.setdefault(0, []).append(_of_group(kind, names, steps, count))
            yield _line(found[0][-1])
        every = [x for measured in found.values() for x in measured]
        times = {number: median(x["ms"] for x in measured) for number, measured in found.items()}
        ratio = times.pop(0) / min(times.values())
        losses = [x["loss"] for x in every]
        equal = max(losses) - min(losses) <= EQUAL * min(losses)
        results += [*every, {"kind": kind, "ratio": ratio, "ok": equal}]
        yield (
            f"{kind}: {count} processes take {ratio:.2f} times as long as one, with "
            f"{'equal' if equal else 'other'} losses"
        )


def _line(found: dict[str, Any]) -> str:
    return (
        f"{found['kind']}: {found['processes']} processes, {found['threads']} threads each: "
        f"{found['ms']:.1f} ms per step, {found['processor_ms']:.1f} of a processor, loss "
        f"{found['loss']:.5f}"
    )


def _subject(kind: str, names: Sequence[str]) -> tuple[DiffusionPolicy, TrainingData]:
    """The default generalist, and random data for it."""
    if kind == "states":
        _, policy = fresh_policy(names)
    else:
        seen = {"front": Field.image(SIDE, SIDE), "state": Field.state(4)}
        camera = Interface("camera", seen, ActionSpec((-1.0,), (1.0,)))
        normalizer = Normalizer(Layout([camera]))
        policy = build_policy(PolicySettings(), [camera], normalizer, 0)
    return policy, demonstration_data(random_steps(policy.environments, 20000, 200), policy)


def _measured(kind: str, names: Sequence[str], steps: int) -> dict[str, Any]:
    """Milliseconds per step of this group, those of a processor of its first process, and the mean
    loss.
    """
    policy, data = _subject(kind, names)
    total, begun, losses = WARM + steps, [0.0, 0.0], [0.0]

    def show(step: int, _: int) -> None:
        if step == WARM:
            begun[:] = time.perf_counter(), time.process_time()

    def record(_: str, step: int, values: Any) -> None:
        losses[0] = values["loss"]

    settings = TrainSettings(steps=total, log_every=total, batch=KINDS[kind])
    Trainer(policy, data, settings, 0).fit(report=Report(show, record))
    spent = time.perf_counter() - begun[0], time.process_time() - begun[1]
    return {
        "kind": kind,
        "processes": ranks.count(),
        "threads": torch.get_num_threads(),
        "ms": 1e3 * spent[0] / steps,
        "processor_ms": 1e3 * spent[1] / steps,
        "loss": losses[0],
    }


def _of_group(kind: str, names: Sequence[str], steps: int, count: int) -> dict[str, Any]:
    """`_measured` by a group that torchrun starts."""
    with tempfile.TemporaryDirectory(prefix="alltrades-bench-") as folder:
        out = Path(folder) / "group.json"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", str(count), "-m", "alltrades", "bench", "ranks"]
        command += ["--names", *names, "--kinds", kind, "--steps", str(steps), "--json", str(out)]
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
