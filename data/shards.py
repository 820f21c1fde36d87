"""Appends by several processes at once: each writes a shard of its own, one commit takes them all.

A shard is a store inside the store, `.shards/NUMBER`, with a lock of its own. It counts once its
worker has finished it; then `merge_shards` appends the episodes of all finished ones, in the order
of their numbers, whenever and by whomever they were written. A worker that dies leaves a shard that
does not count, which is gone on with by `open_shard` or removed by `merge_shards`, as what lies
beyond the commit of a store is replaced.

The commit that takes shards names them until their folders are gone, so that none is taken twice.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from alltrades.data.commit import COMMIT, read_commit
from alltrades.data.store import EpisodeStore
from alltrades.errors import UserError
from alltrades.system.files import remove
from alltrades.system.lock import Lock
from alltrades.system.remote.place import RemotePath, place

FOLDER = ".shards"
SHARD = "shard"  # of a shard's provenance: its token, what it was begun with, whether it is done

Names = Callable[[EpisodeStore], Mapping[str, str]]  # a shard's environments -> the store's


def open_shard(
    path: Path | str, number: int, facts: Mapping[str, Any] | None = None
) -> EpisodeStore:
    """Shard `number` of the store at `path`, open for writing: a new one, or the one that a worker
    with the same `facts` left, finished or not. One that was begun with others is begun anew.

    Raises UserError without a store there, for one in an object store, and where another process
    writes this shard.
    """
    folder = _folder(path) / f"{number:06d}"
    begun = {"token": uuid.uuid4().hex, "facts": dict(facts or {}), "done": False}
    if (folder / COMMIT).exists():
        shard = EpisodeStore.open(folder, "a")
        if shard.provenance.get(SHARD, {}).get("facts") == begun["facts"]:
            return shard
        shard.close()
        remove(folder)
    return EpisodeStore.create(folder, provenance={SHARD: begun})


def finish_shard(shard: EpisodeStore) -> None:
    """Say that a shard is whole, and close it."""
    shard.set_provenance(**{SHARD: {**shard.provenance[SHARD], "done": True}})
    shard.close()


def is_finished(shard: EpisodeStore) -> bool:
    """Whether its worker said so."""
    return bool(shard.provenance.get(SHARD, {}).get("done"))


def shards_of(path: Path | str) -> list[Path]:
    """The folders of a store's shards, finished or not, in the order of their numbers."""
    folder = _folder(path)
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.name.isdecimal())


def merge_shards(store: EpisodeStore, names: Names | None = None) -> int:
    """Append the episodes of all finished shards to their store, which is open for writing, by one
    commit; returns how many shards these were. Shards that are still written stay; what dead
    workers left unfinished is removed.

    Args:
        names: of a shard's environments in the store, where they are others.

    Time: of reading and writing the episodes once. Memory as that of `EpisodeStore.extend`. Raises
    UserError, and appends nothing, for episodes that do not fit the store.
    """
    taken = set(store.merged)
    with ExitStack() as held:
        mine = [path for path in shards_of(store.path) if _claimed(path, held)]
        found = [EpisodeStore.open(path) for path in mine if read_commit(path) is not None]
        whole = [shard for shard in found if is_finished(shard)]
        fresh = [shard for shard in whole if _token(shard) not in taken]
        if fresh:
            store.merge(fresh, names, list(map(_token, fresh)))
        for path in mine:
            remove(path)
    if store.merged:
        store.merge([])  # their folders are gone
    with suppress(OSError):  # others are still written
        _folder(store.path).rmdir()
    return len(fresh)


def drop_shards(path: Path | str) -> None:
    """Remove a store's shards, whatever they hold."""
    with ExitStack() as held:
        for shard in shards_of(path):
            if _claimed(shard, held):
                remove(shard)
    with suppress(OSError):
        _folder(path).rmdir()


def _token(shard: EpisodeStore) -> str:
    return str(shard.provenance[SHARD]["token"])


def _claimed(path: Path, held: ExitStack) -> bool:
    """Lock a shard until `held` ends; False where its worker has it."""
    try:
        held.enter_context(Lock(path, "shard"))
    except UserError:
        return False
    return True


def _folder(path: Path | str) -> Path:
    there = place(path)
    if isinstance(there, RemotePath):
        raise UserError(
            f"{there}: shards of a store are written on a disk alone; expected a path; write them "
            "there, and copy the store: alltrades data merge"
        )
    if not (there / COMMIT).exists():
        raise UserError(
            f"{there}: no store to write a shard of; expected one; create it first, with "
            "EpisodeStore.create"
        )
    return there / FOLDER
