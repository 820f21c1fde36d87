"""Training from an object store beside training from a disk, with an empty and a warm cache."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from alltrades.errors import UserError

EPISODES, LENGTH, WIDTH = 200, 500, 64  # of the store: 10^5 steps, 27 MB
ROUNDS, UPDATES = 5, 100
CHUNKS_OF = "memory", "store"  # where the rows of training are


def remote(address: str | None, results: list[dict[str, Any]]) -> Iterator[str]:
    """Seconds from opening a store to the end of UPDATES steps of training, where its rows are
    loaded first and where windows are read from its chunks; medians of ROUNDS in turn.

    Args:
        address: of a folder that can be written, such as s3://BUCKET/FOLDER; the store `bench.zarr`
            is left there.
    """
    from alltrades.data.store import EpisodeStore
    from alltrades.system.remote.cache import FOLDER
    from alltrades.system.remote.place import is_remote

    if address is None or not is_remote(address):
        raise UserError(
            f"bench remote with --data {address}; expected the address of a folder that can be "
            "written, such as s3://BUCKET/FOLDER; give one"
        )
    with TemporaryDirectory(prefix="alltrades-") as scratch:
        local = EpisodeStore.write(Path(scratch) / "bench.zarr", _episodes())
        there = _written(f"{address.rstrip('/')}/bench.zarr", local)
        before = os.environ.get(FOLDER)
        os.environ[FOLDER] = f"{scratch}/cache"
        try:
            for storage in CHUNKS_OF:
                os.environ[FOLDER] = f"{scratch}/cache-{storage}"  # empty
                cold = _seconds(there, storage)
                disk, warm = [], []
                for _ in range(ROUNDS):
                    disk.append(_seconds(str(local.path), storage))
                    warm.append(_seconds(there, storage))
                yield _line(storage, float(np.median(disk)), cold, float(np.median(warm)), results)
        finally:
            os.environ.pop(FOLDER)
            if before is not None:
                os.environ[FOLDER] = before


def _line(
    storage: str, disk: float, cold: float, warm: float, results: list[dict[str, Any]]
) -> str:
    results.append(
        {"what": f"training from {storage}", "disk": disk, "cold": cold, "warm": warm}
        | {"cold_ratio": cold / disk, "warm_ratio": warm / disk}
    )
    return (
        f"{UPDATES} steps of training, rows in {storage}: disk {disk:.2f} s; object store with an "
        f"empty cache {cold / disk:.2f} times that, with a warm one {warm / disk:.2f} times"
    )


def _seconds(path: str, storage: Any) -> float:
    from alltrades.data.store import EpisodeStore
    from alltrades.policies.learning.batches import TrainingData, TrainingRows
    from alltrades.policies.learning.initial import build_policy, make_normalizer
    from alltrades.policies.learning.training import Trainer
    from alltrades.policies.settings import PolicySettings, TrainSettings

    begun = time.perf_counter()
    store = EpisodeStore.open(path)
    steps, infos = store.steps(), list(store.interfaces().values())
    settings = PolicySettings(width=64)
    policy = build_policy(settings, infos, make_normalizer(steps, infos, settings), 0)
    rows = TrainingRows(steps=steps, probability=np.ones(len(steps)))
    data = TrainingData(rows, policy, storage=storage)
    trainer = Trainer(policy, data, TrainSettings(steps=UPDATES + 1), 0)
    for _ in range(UPDATES):
        trainer.update()
    return time.perf_counter() - begun


def _written(url: str, local: Any) -> str:
    """The same store at an address, where it may be from an earlier bench."""
    from alltrades.data.commit import occupied
    from alltrades.data.store import EpisodeStore
    from alltrades.system.remote.place import place

    if not occupied(place(url)):
        EpisodeStore.write(url, local.episodes())
    if EpisodeStore.open(url).digest() != local.digest():
        raise UserError(
            f"{url}: another store; expected none, or that of an earlier bench; give another folder"
        )
    return url


def _episodes() -> Iterator[Any]:
    from alltrades.data.episode import Episode

    for i in range(EPISODES):
        rng = np.random.default_rng(i)
        state = rng.standard_normal((LENGTH, WIDTH)).astype(np.float32)
        yield Episode.from_arrays({"state": state}, np.tanh(state[:, :4]), "bench/remote", seed=i)
