"""Batches made while the one before is learned from."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import torch

T = TypeVar("T")


class Ahead(Generic[T]):
    """What `make(size, seed, step)` gives, made for the next step by a thread while the caller is
    busy with this one.

    `make` is a function of its arguments: what comes out is the same as without. An error of a
    step that is never asked for is nobody's. Not for several threads at once.
    """

    def __init__(self, make: Callable[[int, int, int], T]) -> None:
        self._make = make
        self._pool: ThreadPoolExecutor | None = None
        self._next: tuple[tuple[int, int, int], Future[T]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """For other processes, each of which makes its own."""
        return {"_make": self._make, "_pool": None, "_next": None}

    def __call__(self, size: int, seed: int, step: int) -> T:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, "batches", torch.set_num_threads, (1,))
        wanted, future = (size, seed, step), None
        if self._next is not None and self._next[0] == wanted:
            future = self._next[1]
        found = self._make(*wanted) if future is None else future.result()
        following = (size, seed, step + 1)
        self._next = following, self._pool.submit(self._make, *following)
        return found
