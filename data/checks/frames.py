"""Pictures of a camera, one piece of an episode at a time, and what is usual of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from alltrades.data.checks.subject import Subject

PIECE_BYTES = 2**23
COLUMNS = 32  # of a picture that are looked at; all rows
SAMPLE = (8, 24)  # places, pictures one after another at each


@dataclass(frozen=True)
class Frames:
    """Of n pictures (H, W, C) of one episode.

    Attributes:
        spread: (n,) standard deviation of its pixels.
        change: (n,) mean change from the picture before; the first -1 at an episode's start.
        same: (n,) whether it is equal to the picture before.
        held: (n,) share of its rows of pixels that are equal to those of the picture before.
        rows: (n, H - 1) by how much half of the pixels of a row differ from those of the next.
    """

    spread: np.ndarray
    change: np.ndarray
    same: np.ndarray
    held: np.ndarray
    rows: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray, before: np.ndarray | None) -> Frames:
        """Of pictures x (n, H, W, C), and the one before."""
        every = max(1, x.shape[2] // COLUMNS)
        whole = x if before is None else np.concatenate([before[None], x])
        y = whole[:, :, ::every].astype(np.float32)
        moved = np.abs(np.diff(y, axis=0))
        change, held = moved.mean((1, 2, 3)), (moved == 0).all((2, 3)).mean(1)
        same = np.zeros(len(whole) - 1, bool)
        for k in np.flatnonzero(change == 0):
            same[k] = np.array_equal(whole[k + 1], whole[k])
        if before is None:
            change, same = np.append(-1.0, change), np.append(False, same)
            held = np.append(0.0, held)
        else:
            y = y[1:]
        rows = np.median(np.abs(np.diff(y, axis=1)).mean(3), axis=2)
        return cls(y.reshape(len(y), -1).std(1), change, same, held, rows)


def episodes(subject: Subject, name: str) -> Iterator[tuple[int, Frames]]:
    """Every episode, its number among the subject's, in order; memory is a piece of PIECE_BYTES."""
    source = subject.images[name]
    row = max(1, int(np.prod(source.shape[1:])) * np.dtype(source.dtype).itemsize)
    most = max(2, PIECE_BYTES // row)
    for i, (start, count) in enumerate(zip(subject.start.tolist(), subject.length.tolist())):
        parts, before = [], None
        for low in range(start, start + count, most):
            x = source.read(low, min(low + most, start + count))
            parts.append(Frames.of(x, before))
            before = x[-1]
        yield i, _joined(parts)


def sampled(subject: Subject, name: str) -> Frames:
    """Some episodes' beginnings and middles."""
    parts, source = [], subject.images[name]
    places, many = SAMPLE
    chosen = np.unique(np.linspace(0, len(subject.length) - 1, places).astype(int))
    for k, i in enumerate(chosen.tolist()):
        count = int(subject.length[i])
        first = int(subject.start[i]) + (max(0, count - many) * k) // max(1, len(chosen) - 1)
        stop = min(first + many, int(subject.start[i]) + count)
        parts.append(Frames.of(source.read(first, stop), None))
    return _joined(parts)


def _joined(parts: list[Frames]) -> Frames:
    if len(parts) == 1:
        return parts[0]
    return Frames(
        *(np.concatenate([getattr(p, n) for p in parts]) for n in Frames.__dataclass_fields__)
    )
