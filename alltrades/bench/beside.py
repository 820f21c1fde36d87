"""Two trainings beside one another: in threads of one process, and in processes of their own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from functools import partial
from typing import TYPE_CHECKING

import torch

from alltrades.policies.learning.checkpoints import Place
from alltrades.policies.learning.elsewhere import train_elsewhere
from alltrades.policies.learning.training import Trainer
from alltrades.policies.settings import TrainSettings
from alltrades.system.compute.executor import Executor
from alltrades.system.compute.processes import Processes
from alltrades.system.reporting import Report

if TYPE_CHECKING:
    from alltrades.policies.learning.batches import TrainingData
    from alltrades.policies.model.policy import DiffusionPolicy

COUNT, TURNS = 2, 3


def beside(policy: DiffusionPolicy, data: TrainingData, seconds: float) -> Iterator[str]:
    """Steps per second of each of two trainings in fp32, by turns in threads and in processes that
    have started.
    """
    trainer = Trainer(deepcopy(policy), data, TrainSettings(precision="fp32", steps=1 << 30), 0)
    steps = 10
    while (passed := _seconds([partial(_here, trainer, steps)])) < seconds / 4:
        steps *= 2
    steps = max(1, round(steps * seconds / passed))
    settings = TrainSettings(precision="fp32", steps=steps)
    spent: dict[str, list[float]] = {"threads": [], "processes": []}
    with Processes(COUNT) as processes:
        for turn in range(TURNS + 1):
            for name, where in (("threads", None), ("processes", processes)):
                # the first turn starts the processes
                mine = settings if turn else TrainSettings(precision="fp32", steps=1)
                found = _seconds(
                    [
                        partial(_train, Trainer(deepcopy(policy), data, mine, 0), where)
                        for _ in range(COUNT)
                    ]
                )
                if turn:
                    spent[name].append(found)
    threads, own = (steps / sorted(x)[TURNS // 2] for x in spent.values())
    yield (
        f"{COUNT} trainings beside one another, fp32, {policy.parameter_count() / 1e6:.2f} M "
        f"parameters: {threads:,.0f} steps/s each in threads, {own:,.0f} in processes, "
        f"{own / threads:.2f} times as many"
    )


def _here(trainer: Trainer, steps: int) -> None:
    for _ in range(steps):
        trainer.update()


def _train(trainer: Trainer, where: Executor | None) -> None:
    if where is None:
        trainer.train(Place(), Report())
    else:
        train_elsewhere(trainer, 1, Place(), Report(), where)


def _seconds(jobs: Sequence[Callable[[], None]]) -> float:
    with ThreadPoolExecutor(len(jobs), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        start = time.perf_counter()
        for future in [pool.submit(job) for job in jobs]:
            future.result()
        return time.perf_counter() - start
