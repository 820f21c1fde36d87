"""What is usual of each number: what every threshold of a check is a multiple of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from alltrades.data.checks.subject import Block, Subject

SAMPLE = 16_384  # steps that are looked at first
PLACES = 8  # where they are taken, each of episodes one after another
ODD = 3  # steps that may be wrong on each side of what is usual
FEW = 10  # distinct values of a number that is a switch
EVEN = 1.5  # times the slow steps of a clock, that its fast ones are
BACK = 0.002  # share of the steps in which a clock may go back
ROUGH = 0.2  # share of its range by which a rough number changes in many steps


@dataclass(frozen=True)
class Scale:
    """Of the D numbers of one field, by a sample of its steps. (D,) each.

    Attributes:
        low, high: quantiles 0.005 and 0.995, in few steps further in, so that some may be wrong.
        least, most: of the sample.
        pace, step: quantiles 0.9 and 0.99 of absolute changes from a step to the next.
        bend: the same of changes of changes.
        still: they are the same in the whole sample. switch: they have few distinct values.
        clock: they grow by the same from step to step, as times and counters do.
    """

    low: np.ndarray
    high: np.ndarray
    least: np.ndarray
    most: np.ndarray
    pace: np.ndarray
    step: np.ndarray
    bend: np.ndarray
    still: np.ndarray
    switch: np.ndarray
    clock: np.ndarray

    @property
    def width(self) -> np.ndarray:
        return self.high - self.low

    @property
    def smooth(self) -> np.ndarray:
        """(D,) whether they vary, and mostly by little from a step to the next."""
        return ~self.switch & ~self.clock & (self.width > 0) & (self.pace <= ROUGH * self.width)

    @classmethod
    def of(cls, blocks: list[Block], name: str) -> Scale:
        x = np.concatenate([b.values[name] for b in blocks])
        change = np.concatenate([b.changes(name)[b.inside] for b in blocks])
        bends = []
        for b in blocks:
            both = b.inside[1:] & b.inside[:-1]
            bends.append(np.diff(b.changes(name), axis=0)[both])
        bend = np.concatenate(bends)
        out = float(np.clip(ODD / len(x), 0.005, 0.25))
        low, high = np.quantile(x, (out, 1 - out), axis=0)
        least, most = x.min(0), x.max(0)
        few = np.array([len(np.unique(column[:2048])) for column in x.T])
        return cls(
            low,
            high,
            least,
            most,
            _usual(change, 0.9),
            _usual(change, 0.99),
            _usual(bend, 0.99),
            least == most,
            few <= min(FEW, max(2, len(x) // 4)),
            _clock(change),
        )


def _clock(change: np.ndarray) -> np.ndarray:
    if not len(change):
        return np.zeros(change.shape[1], bool)
    slow, fast = np.quantile(change, (0.1, 0.9), axis=0)
    backwards = (change <= 0).mean(0)  # an angle that turns evenly goes back now and then
    return (slow > 0) & (fast < EVEN * slow) & (backwards < BACK)


def _usual(x: np.ndarray, share: float) -> np.ndarray:
    if not len(x):
        return np.zeros(x.shape[1])
    return np.quantile(abs(x), share, axis=0)


def sample(subject: Subject) -> list[Block]:
    """Blocks of episodes spread over all of them, of about SAMPLE steps together, and of at least
    one episode.
    """
    count = len(subject.episodes)
    if subject.total <= SAMPLE:
        return list(subject.blocks())
    share, out = SAMPLE // PLACES, []
    mean = subject.total / count
    many = max(1, int(share / mean))
    for first in np.unique(np.linspace(0, count - many, PLACES).astype(int)).tolist():
        stop = first + 1
        while stop < min(first + many, count) and (
            subject.start[stop] == subject.start[stop - 1] + subject.length[stop - 1]
        ):
            stop += 1
        out.append(subject.block(first, stop))
        if sum(int(b.length.sum()) for b in out) >= 2 * SAMPLE:
            break
    return out
