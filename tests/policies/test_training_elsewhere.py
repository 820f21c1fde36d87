"""A training that another machine carries out, and one that dies with it."""

from __future__ import annotations

import pickle
from collections.abc import Generator, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from alltrades.policies.learning import elsewhere
from alltrades.policies.learning.checkpoints import Place, read_average
from alltrades.policies.learning.health import Diverged
from alltrades.policies.learning.held_out import look_steps
from alltrades.system.compute.executor import Ears, Function, Here, unsent
from alltrades.system.reporting import Report
from tests.alltrades.posted import Posted
from tests.policies.test_training import TRAIN, _trainer


class Lost(Exception):
    """The machine is gone."""


def _note(steps: list[int], done: int, _: int) -> None:
    steps.append(done)


class Dying(Posted):
    """Loses a task when it has told of a checkpoint, and sends it again, as it is by then.

    Attributes:
        first: by try, how far it was when it first said so.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first: list[int] = []

    def map(
        self, function: Function, items: Iterable[Any], shared: Any = None, ears: Ears | None = None
    ) -> Generator[Any, None, None]:
        assert ears is not None
        (item,) = items

        def tell(told: tuple[str, Any]) -> None:
            ears.hear(told)
            if told[0] == "work" and not self.first:
                raise Lost

        for again in (False, True):
            steps: list[int] = []
            report = Report(partial(_note, steps))
            try:
                found = function(
                    Here(self._kept, report, tell=tell), None, pickle.loads(pickle.dumps(item))
                )
            except Lost:
                assert not again
            else:
                yield pickle.loads(pickle.dumps(found))
            self.first.append(steps[0])


@pytest.mark.parametrize("executor", [Posted(), Dying()], ids=["done", "lost"])
def test_a_training_elsewhere_leaves_what_one_here_leaves(tmp_path: Path, executor: Posted):
    here, there = tmp_path / "here", tmp_path / "there"
    alone, sent = _trainer(), _trainer()
    own = alone.fit(Place(here / "work", here / "averages"))
    place = replace(Place(there / "work", there / "averages"), executor=executor)
    policy = sent.fit(place)
    for a, b in zip(own.state_dict().values(), policy.state_dict().values()):
        assert torch.equal(a, b)
    assert sent.step == alone.step == TRAIN.steps and sent.course() == alone.course()
    files = [{p.relative_to(f): p.read_bytes() for p in f.rglob("*.*")} for f in (here, there)]
    assert files[0] == files[1] and len(files[0]) == 2 + 2 * len(look_steps(TRAIN.steps))
    assert read_average(there / "averages", TRAIN.steps, policy)
    if isinstance(executor, Dying):
        assert executor.first == [1, 11]  # the second try goes on from the checkpoint of step 10


class Near(Posted):
    """In a process of this machine, which can be sent nothing."""

    near = True

    def map(self, function, items, shared=None, ears=None):
        raise unsent(TypeError("a lambda"))
        yield


def test_a_training_that_cannot_be_sent_to_another_process_is_done_here(monkeypatch):
    monkeypatch.setattr(elsewhere, "WORTH", 0)
    alone, here = _trainer(), _trainer()
    assert here.fit(Place(executor=Near())).digest() == alone.fit().digest()


def _nothing_finite(policy, batch, generator, rows):
    return policy.loss(batch, generator, 0.0) * float("nan")


def test_what_diverges_elsewhere_is_called_by_its_name():
    trainer = _trainer()
    trainer.loss = _nothing_finite
    with pytest.raises(Diverged, match="labeled_only: training diverged"):
        trainer.fit(Place(executor=Posted()), Report(name="labeled_only"))
