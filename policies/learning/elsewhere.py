"""A training carried out in other processes, here or on other machines: it goes there whole, its
checkpoints and averages come back as they are written, and at its end its state.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from alltrades.policies.learning.checkpoints import Place, remove_older
from alltrades.policies.learning.sharing import Alone
from alltrades.policies.model.policy import DiffusionPolicy
from alltrades.policies.model.threads import small, threads
from alltrades.policies.settings import TrainSettings
from alltrades.system.compute.executor import Ears, Executor, Here, Unsent
from alltrades.system.files import replacing
from alltrades.system.reporting import Report

Files = Mapping[str, bytes]

WORTH = 5e10  # parameters x samples: some 5 s of a core
SENT = 2**28  # bytes of rows up to which they are sent to a process of this machine


class Training(Protocol):
    """What is asked of a trainer."""

    policy: DiffusionPolicy
    settings: TrainSettings
    device: torch.device
    stacked: int
    step: int
    total: int
    share: Alone

    def data_bytes(self) -> int: ...

    def shared(self) -> Alone: ...

    def restore(self, folder: Path) -> bool: ...

    def train(self, place: Place, report: Report) -> None: ...

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]: ...

    def resume(self, tensors: dict[str, Tensor], facts: dict[str, Any], step: int) -> None: ...


class _Last:
    """The files of a checkpoint: a folder here, what it holds where it is sent to."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.files: Files = {}

    def __getstate__(self) -> dict[str, Any]:
        there = [] if self.folder is None else sorted(self.folder.glob("checkpoint*"))
        return {"folder": None, "files": {path.name: path.read_bytes() for path in there}}


@dataclass(frozen=True)
class Order:
    """How a training is to be done elsewhere.

    Attributes:
        name: what the training is called in what it raises.
        threads: of PyTorch, on which bits depend.
        checkpoint: the last one that came back, read when the order is sent, so that a second try
            goes on from there.
        averages: whether averages are kept.
    """

    name: str
    threads: int
    checkpoint: _Last
    averages: bool


def trained_elsewhere(trainer: Training, place: Place, report: Report) -> bool:
    """Train to the end where `place` says, with the threads that it would have here; False, and
    nothing is done, where it is to be done here.
    """
    executor = place.elsewhere
    if executor is None or (executor.near and not _deserves_a_process(trainer)):
        return False
    try:
        train_elsewhere(trainer, torch.get_num_threads(), place, report, executor)
    except Unsent:
        if not executor.near:
            raise
        return False
    return True


def _deserves_a_process(trainer: Training) -> bool:
    """Whether it ends earlier in a process of its own than beside others in this one: its steps are
    short, so that threads wait for Python; there are enough of them to make up for the start; and
    what it learns from is soon sent.
    """
    samples = (trainer.total - trainer.step) * trainer.settings.batch
    return (
        trainer.device.type == "cpu"
        and small(trainer.policy)
        and samples * trainer.policy.parameter_count() >= WORTH
        and trainer.data_bytes() <= SENT
    )


def train_elsewhere(
    trainer: Training, count: int, place: Place, report: Report, executor: Executor
) -> None:
    """Train to the end, as `trainer.train` does with so many threads; `place` holds the same
    afterwards.
    """
    folders = {"work": place.work, "averages": place.averages}

    def put(told: tuple[str, Files]) -> None:
        kind, files = told
        folder = folders[kind]
        assert folder is not None
        for name, content in files.items():
            with replacing(folder / name) as partial_file:
                partial_file.write_bytes(content)
        if kind == "work":
            remove_older(folder)

    ears = Ears(lambda _: report, hear=put)
    order = Order(report.name, count, _Last(place.work), place.averages is not None)
    if executor.ranks > 1 and not trainer.stacked:
        tensors, facts, step = executor.together(_train, (trainer, order), ears)
    else:
        tensors, facts, step = executor.call(_train, (trainer, order), ears=ears)
    there = {name: tensor.to(trainer.device) for name, tensor in tensors.items()}
    trainer.resume(there, facts, step)


def _train(
    here: Here, shared: None, item: tuple[Training, Order]
) -> tuple[dict[str, Tensor], dict[str, Any], int]:
    trainer, order = item
    with tempfile.TemporaryDirectory(prefix="alltrades-training-") as name, threads(order.threads):
        work, averages = Path(name) / "work", Path(name) / "averages"

        def wrote(folder: Path, names: Sequence[str]) -> None:
            kind = "work" if folder == work else "averages"
            here.tell((kind, {name: (folder / name).read_bytes() for name in names}))

        work.mkdir()
        for file, content in order.checkpoint.files.items():
            (work / file).write_bytes(content)
        trainer.restore(work)
        trainer.share = trainer.shared()
        trainer.train(
            Place(work, averages if order.averages else None, wrote=wrote),
            here.report.named(order.name),
        )
        tensors, facts = trainer.state()
        sent = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
        return sent, facts, trainer.step
