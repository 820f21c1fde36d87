"""python -m alltrades.bench.store_process STORE PART UPDATES: what one fresh process takes to open
a store, or to train from it, as JSON; beyond what importing alltrades and torch takes, and the
first training step of a process, which imports more.

Part "index" reads the index. "memory" and "store" train the default policy, with rows in memory and
with windows from the store's chunks. "append" adds episodes one by one.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from alltrades.bench.memory import resident_bytes
from alltrades.bench.synthetic import LENGTH, synthetic
from alltrades.bench.throughput import random_steps
from alltrades.data.actions import ActionSpec
from alltrades.data.fields import Field
from alltrades.data.interface import Interface
from alltrades.data.steps import Steps
from alltrades.data.store import EpisodeStore
from alltrades.policies.learning.batches import TrainingData, TrainingRows
from alltrades.policies.learning.initial import build_policy, make_normalizer
from alltrades.policies.learning.training import Trainer
from alltrades.policies.settings import PolicySettings, TrainSettings

BATCH = TrainSettings().batch


@dataclass
class Clock:
    """Seconds, those of the processor (of all threads), and the largest memory since it began."""

    base: int = field(default_factory=lambda: _from_here())
    wall: float = field(default_factory=time.perf_counter)
    processor: float = field(default_factory=time.process_time)

    def lap(self, name: str) -> dict[str, float]:
        """Seconds since the last lap, under names that begin so."""
        wall, processor = time.perf_counter(), time.process_time()
        spent = wall - self.wall, processor - self.processor
        self.wall, self.processor = wall, processor
        return {f"{name}_s": spent[0], f"{name}_processor_s": spent[1]}

    def bytes(self) -> int:
        """At the peak, beyond those of the beginning."""
        return _status("VmHWM") - self.base


def measure(path: Path, part: str, updates: int) -> dict[str, Any]:
    """What `part` takes: of seconds, and of bytes at the peak; medians of what is repeated."""
    if part == "append":
        return _appends(path, updates)
    if part != "index":
        _trainer(*_small(), "memory").update()  # what the first step of a process imports
    clock = Clock()
    store = EpisodeStore.open(path)
    store.columns()
    ends = store.episode_ends
    out: dict[str, Any] = {
        **clock.lap("index"),
        "episodes": len(ends),
        "index_bytes": clock.bytes(),
    }
    if part == "index":
        return out
    trainer = _trainer(store.steps(), list(store.interfaces().values()), part)
    trainer.update()
    out |= clock.lap("start") | {"start_bytes": clock.bytes()}
    for name in ("start_s", "start_processor_s"):  # from opening the store on
        out[name] += out[name.replace("start", "index")]
    batches, steps = [], []
    for i in range(updates):
        trainer.data.batch(BATCH, 1, i)
        batches.append(clock.lap("batch"))
        trainer.update()
        steps.append(clock.lap("step"))
    return out | _median(batches) | _median(steps) | {"bytes": clock.bytes()}


def _appends(path: Path, count: int) -> dict[str, Any]:
    """What single episodes take to append."""
    laps = []
    with EpisodeStore.open(path, "a") as store:
        clock = Clock()
        for episode in islice(synthetic(count * LENGTH, 1, 1), count):
            store.append([episode])
            laps.append(clock.lap("append"))
    return _median(laps)


def _trainer(steps: Steps, interfaces: list[Interface], storage: Any) -> Trainer:
    settings = PolicySettings()
    normalizer = make_normalizer(steps, interfaces, settings)
    policy = build_policy(settings, interfaces, normalizer, 0)
    rows = TrainingRows(steps=steps, probability=np.repeat(steps.has_actions, steps.lengths))
    return Trainer(policy, TrainingData(rows, policy, storage=storage), TrainSettings(), 0)


def _median(laps: list[dict[str, float]]) -> dict[str, float]:
    return {name: median(lap[name] for lap in laps) for name in laps[0]}


def _small() -> tuple[Steps, list[Interface]]:
    infos = [Interface("bench/small", {"state": Field.state(2)}, ActionSpec.unknown(1))]
    return random_steps(infos, 40, 2), infos


def _from_here() -> int:
    """Resident bytes, from which on peaks count."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return resident_bytes()


def _status(name: str) -> int:
    """Bytes that the system says of this process; 0 where it does not (see `resident_bytes`)."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return 1024 * int(line.split()[1])
    return 0


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))))
