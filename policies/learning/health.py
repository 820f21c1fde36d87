"""Whether a training still learns: its loss is finite and has not exploded, its weights are finite.

A loss that is not finite spreads to every weight with the next step, and a loss that has exploded
leaves weights from which nothing is learned any more: such a training ends before it writes
anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from alltrades.errors import UserError
from alltrades.policies.learning.batches import TrainingData
from alltrades.policies.model.batch import Batch
from alltrades.policies.settings import TrainSettings

LOOK = 50  # steps between two looks at the losses at most: each waits for the device
EXPLODED = 10.0  # times its start that the median of the last `LOOK` losses is called exploded
# a start below is as good as this one: chunks are normalised, so that knowing nothing costs 1
LEAST = 1.0
PARTS = 4  # equal parts of a training of which the mean loss is kept


class Diverged(UserError):
    """A training that learns nothing any more.

    Args:
        network: whose training it is.
        step: from which it is known, counted from 1.
        found: what is wrong, and where.
        remedy: what to do; "{lr}" and "{training}" stand for the names of settings.
        kept: what remains.

    Attributes:
        setting: what the settings of this training are called, such as "distill.train".
    """

    def __init__(self, network: str, step: int, found: str, remedy: str, kept: str) -> None:
        super().__init__(network, step, found, remedy, kept)
        self.setting = ""

    def __str__(self) -> str:
        network, step, found, remedy, kept = self.args
        lr = f"{self.setting}.lr" if self.setting else "lr"
        return (
            f"{network}: training diverged at step {step:,}: {found}; expected finite numbers and "
            f"a loss that falls; {remedy.format(lr=lr)}; {kept}"
        )


@contextmanager
def settings_called(name: str) -> Iterator[None]:
    """Name the settings of trainings in here in what they raise when they diverge."""
    try:
        yield
    except Diverged as error:
        error.setting = name
        raise


class Health:
    """What is known of the losses of K networks that are trained together.

    Args:
        stops: (K,) step after which each network is kept.

    Attributes:
        start: (K,) loss of the first step; None before it.
    """

    def __init__(self, stops: Sequence[int]) -> None:
        self.start: list[float] | None = None
        self._stops = np.array(stops)  # (K,)
        self._sums = np.zeros((PARTS, len(stops)))  # of the losses in each part
        self._seen = 0  # steps
        self._last = np.empty((0, len(stops)))  # the losses of the last `LOOK` steps at most

    def course(self, network: int = 0) -> tuple[float, ...]:
        """Mean training loss of a network in each quarter of its steps; none before its end, and
        for fewer steps than quarters.
        """
        stop = int(self._stops[network])
        if stop < PARTS or self._seen < stop:
            return ()
        counts = np.bincount(PARTS * np.arange(stop) // stop, minlength=PARTS)
        return tuple((self._sums[:, network] / counts).tolist())

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"start": self.start, "sums": self._sums.tolist(), "seen": self._seen}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.start, self._seen = state["start"], int(state["seen"])
        self._sums = np.array(state["sums"])

    def _add(self, losses: np.ndarray) -> None:
        """Add losses (n, K) to the sums of their parts, step by step."""
        steps = np.arange(self._seen, self._seen + len(losses))[:, None]  # (n, 1)
        rows, networks = np.nonzero(steps < self._stops)
        parts = PARTS * steps[rows, 0] // self._stops[networks]
        np.add.at(self._sums, (parts, networks), losses[rows, networks])
        self._seen += len(losses)

    def look(self, losses: np.ndarray) -> tuple[int, int, str] | None:
        """Given the losses (n, K) since the last look: which of them, which network and what is
        wrong; None where nothing is.
        """
        if self.start is None:
            self.start = losses[0].tolist()
        broken = np.argwhere(~np.isfinite(losses))
        if len(broken):
            row, network = map(int, broken[0])
            return row, network, f"its loss is {losses[row, network]}"
        self._add(losses)
        self._last = np.concatenate([self._last, losses])[-LOOK:]
        bound = EXPLODED * np.maximum(self.start, LEAST)  # (K,)
        if not (self._last > bound).any():
            return None
        median = np.median(self._last, axis=0)  # (K,)
        over = np.flatnonzero(median > bound)
        if len(over):
            k, n = int(over[0]), len(self._last)
            return (
                len(losses) - 1,
                k,
                f"its loss has exploded (first {self.start[k]:.3g}, median of the last {n} steps "
                f"{median[k]:.3g})",
            )
        return None


def broken_data(data: TrainingData, batch: Batch, rows: np.ndarray) -> str | None:
    """Which of a batch's numbers are not finite, and where in the data; None where all are.

    Args:
        rows: (B,) of the batch.
    """
    parts = {f"observation {key}": x for key, x in batch.window.items()}
    parts |= {"actions": batch.action, "weights": batch.loss_weight}
    for what, x in parts.items():
        if x.is_floating_point():
            bad = ~torch.isfinite(x).flatten(1).all(1) if x.ndim > 1 else ~torch.isfinite(x)
            if bad.any():
                k = int(bad.nonzero()[0, 0])
                step = int(rows[k])
                episode = int(np.searchsorted(data.windows.ends, step, side="right"))
                name = data.layout.ids[int(batch.environment[k])]
                return (
                    f"{what} of '{name}' are not finite around step {step:,} of the data, in "
                    f"episode {episode} of it"
                )
    return None


def diverged(
    network: str,
    step: int,
    found: str,
    settings: TrainSettings,
    reduced: bool,
    kept: str,
    data: Callable[[], str | None],
) -> Diverged:
    """The error of a training, with what is likely to help.

    Args:
        reduced: whether it computes in bf16.
        data: finds out whether the data of the step are to blame.
    """
    blamed = data()
    if blamed is not None:
        remedy = "mend or leave out that episode"
        return Diverged(network, step, f"{found}, for {blamed}", remedy, kept)
    remedies = [f"lower {{lr}} (now {settings.lr:g})"]
    if reduced:
        remedies.append("set training.precision: fp32")
    if settings.grad_clip > 1:
        remedies.append(f"lower training.grad_clip (now {settings.grad_clip:g})")
    remedies.append(f"or raise training.warmup (now {settings.warmup:g})")
    return Diverged(network, step, found, ", ".join(remedies), kept)
