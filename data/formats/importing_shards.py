"""An import by several processes: each reads a part of the episodes into a shard of the store."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from alltrades.data.commit import read_commit
from alltrades.data.formats.recording import Recording
from alltrades.data.shards import (
    drop_shards,
    finish_shard,
    is_finished,
    merge_shards,
    open_shard,
    shards_of,
)
from alltrades.data.store import EpisodeStore
from alltrades.errors import UserError

Report = Callable[[int, int], None]
LOOK = 0.5  # seconds between looks at what workers have done


class Work(Protocol):
    """What an import tells of itself (see `importing.Import`)."""

    recording: Recording
    workers: int
    ids: dict[str, str]

    @property
    def partial(self) -> Path: ...
    def sent(self) -> Work: ...
    def received(self) -> Work: ...
    def identity(self) -> str: ...
    def next_of(self, store: EpisodeStore) -> int: ...
    def append(self, store: EpisodeStore, report: Report, first: int, total: int) -> None: ...
    def remember(self, store: EpisodeStore) -> None: ...
    def noted(self, said: Mapping[str, Any]) -> None: ...
    def note(self, store: EpisodeStore) -> None: ...


def import_shared(work: Work, store: EpisodeStore, report: Report) -> None:
    """Append what is missing, by `work.workers` processes, with one commit: the same episodes in
    the same order as one process appends. What dead processes left goes on where it was.

    Raises what the first episode that cannot be imported raises, when those before it were read,
    and UserError where a process ended without a word.
    """
    if store.merged:
        merge_shards(store)  # was killed behind its commit
    total, first = len(work.recording), work.next_of(store)
    if first:
        work.remember(store)
    edges = np.linspace(first, total, work.workers + 1).round().astype(int).tolist()
    parts = [(n, low, high) for n, (low, high) in enumerate(zip(edges, edges[1:])) if low < high]
    processes = []
    try:
        for part in parts:
            processes.append(_begun(work, part))
        _watched(work, processes, parts, lambda: report(first + _done(store), total))
    finally:
        for process, ours in processes:
            process.terminate()
            process.join()
            ours.close()
    for path in shards_of(store.path):
        work.noted(EpisodeStore.open(path).provenance)
    work.note(store)

    def names(shard: EpisodeStore) -> dict[str, str]:
        ids = shard.provenance.get("tasks", {})
        return {ids[task]: work.ids[task] for task in ids if ids[task] != work.ids[task]}

    merge_shards(store, names)
    drop_shards(store.path)
    report(total, total)


def _begun(work: Work, part: tuple[int, int, int]) -> tuple[BaseProcess, Connection]:
    context = get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    args = theirs, work.sent(), part
    process = context.Process(target=_import_part, args=args, daemon=True)
    process.start()
    theirs.close()
    return process, ours


def _import_part(pipe: Connection, work: Work, part: tuple[int, int, int]) -> None:
    """Read one part into its shard, and say what went wrong."""
    error: UserError | None = None
    try:
        work = work.received()
        number, low, high = part
        facts = {"import": work.identity(), "episodes": [low, high]}
        shard = open_shard(work.partial, number, facts)
        with shard:
            if not is_finished(shard):
                work.append(shard, _while_wanted, low, high)
                work.note(shard)
                finish_shard(shard)
    except UserError as wrong:
        error = wrong
    pipe.send(error)


def _while_wanted(done: int, total: int) -> None:
    """End with the command that began this process."""
    parent = parent_process()
    if parent is None or not parent.is_alive():
        sys.exit(1)


def _watched(
    work: Work,
    processes: Sequence[tuple[BaseProcess, Connection]],
    parts: Sequence[tuple[int, int, int]],
    look: Callable[[], None],
) -> None:
    """Wait until all are done, or one and those before it are, and it was wrong."""
    answers: dict[int, UserError | None] = {}
    looked = time.monotonic()
    while len(answers) < len(processes):
        waiting = {ours: i for i, (_, ours) in enumerate(processes) if i not in answers}
        for ready in wait(list(waiting), LOOK):
            i = waiting[ready]  # type: ignore[index]
            try:
                answers[i] = processes[i][1].recv()
            except EOFError:
                _, low, high = parts[i]
                processes[i][0].join()
                answers[i] = UserError(
                    f"{work.recording.path}: the process that read episodes {low} to {high - 1} "
                    f"ended with code {processes[i][0].exitcode}; expected it to finish; give the "
                    "same command again, which goes on, with fewer --workers where memory was short"
                )
        for i in range(len(processes)):
            if i not in answers:
                break
            error = answers[i]
            if error is not None:
                raise error
        if time.monotonic() - looked > LOOK:
            looked = time.monotonic()
            look()


def _done(store: EpisodeStore) -> int:
    """Episodes in the shards."""
    return sum((read_commit(path) or {}).get("episodes", 0) for path in shards_of(store.path))
