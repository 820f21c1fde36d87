"""Images in training: the default encoder against its convolutions alone, and random windows from
memory, from decoded files and from stores.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

SIZES = (64, 96, 224)  # pixels of a side
FRAMES = 64  # of one call of an encoder
SIDE, BATCH, EPISODE = 64, 256, 100  # of the store that windows are taken from
BUDGETS = {"decoded": None, "budget of a quarter": 0.25, "no budget": 0.0}  # shares of its images


def images(seconds: float, count: int, results: list[dict[str, Any]]) -> Iterator[str]:
    """Lines and plain results.

    Args:
        count: frames of the store.
    """
    for size in SIZES:
        yield _encoder(size, seconds, results)
    with TemporaryDirectory(prefix="alltrades-") as folder:
        yield from _windows(Path(folder), count, seconds, results)


def _together(calls: list[Callable[[], object]], seconds: float) -> list[float]:
    """Calls per second of each, in turns, so that what else the machine does slows all alike."""
    spent, done = np.zeros(len(calls)), 0
    for call in calls:
        call()
    while spent.sum() < seconds * len(calls):
        for i, call in enumerate(calls):
            start = time.perf_counter()
            call()
            spent[i] += time.perf_counter() - start
        done += 1
    return [done / s for s in spent]


def _encoder(size: int, seconds: float, results: list[dict[str, Any]]) -> str:
    import torch

    from alltrades.data.layout import Slot
    from alltrades.policies.model.encoders import Convolution
    from alltrades.policies.model.threads import threads

    encoder = Convolution(Slot("front", "front", "image", (size, size, 3), "uint8"))
    frames = torch.randint(0, 256, (FRAMES, size, size, 3), dtype=torch.uint8)
    layers = [m for m in encoder.layers if isinstance(m, torch.nn.Conv2d)]

    def whole() -> None:
        encoder((frames.float() - 127.5) / 127.5).sum().backward()

    def alone() -> None:
        x = ((frames.float() - 127.5) / 127.5).movedim(3, 1).contiguous()
        for layer in layers:
            x = layer(x)
        x.sum().backward()

    with threads(1):
        mine, bare = (FRAMES * r for r in _together([whole, alone], seconds))
    results.append({"what": "encoder", "pixels": size, "frames_s": mine, "ratio": mine / bare})
    millions = sum(p.numel() for p in encoder.parameters()) / 1e6
    return (
        f"default encoder, {size} pixels, {millions:.3f} M parameters, one thread: {mine:,.0f} "
        f"training frames/s, {mine / bare:.2f} of its convolutions alone"
    )


def _windows(
    folder: Path, count: int, seconds: float, results: list[dict[str, Any]]
) -> Iterator[str]:
    from alltrades.data.actions import ActionSpec
    from alltrades.data.decoded import Images
    from alltrades.data.fields import Field
    from alltrades.data.interface import Interface
    from alltrades.data.layout import Layout
    from alltrades.data.rows import Rows
    from alltrades.policies.learning.batches import demonstration_data
    from alltrades.policies.learning.initial import build_policy
    from alltrades.policies.learning.training import Trainer
    from alltrades.policies.model.normalizer import Normalizer
    from alltrades.policies.settings import PolicySettings, TrainSettings

    store = _store(folder / "store.zarr", count)
    plain = store.steps()
    size = plain.observation["front"].resized((SIDE, SIDE, 3)).nbytes
    environment = Interface("a", {"front": Field.image(SIDE, SIDE)}, ActionSpec((-1.0,), (1.0,)))
    normalizer = Normalizer(Layout([environment]))
    policy = build_policy(PolicySettings(width=96, depth=2), [environment], normalizer, 0)
    memory = Rows.of(plain.observation["front"].load())
    steps = {"in memory": _seeing(plain, memory)}
    for name, share in BUDGETS.items():
        budget = None if share is None else share * size
        steps[name] = Images(folder / "images", budget).of(plain)
    rng = np.random.default_rng(0)

    def take(rows: Rows) -> None:
        rows.take(rng.integers(0, len(rows), (BATCH, 1)))

    rows = {name: s.observation["front"].resized((SIDE, SIDE, 3)) for name, s in steps.items()}
    for own in rows.values():  # what is decoded once is not what is measured
        own.take(np.arange(0, len(own), 8))
    rates = _together([partial(take, own) for own in rows.values()], seconds)
    for name, rate in zip(rows, rates):
        ratio = rate / rates[0]
        results.append({"what": "windows", "from": name, "frames_s": BATCH * rate, "ratio": ratio})
        yield (
            f"random frames of {SIDE} pixels, {size / 2**20:,.0f} MiB of them, {name}: "
            f"{BATCH * rate:,.0f} frames/s, {ratio:.2f} of memory"
        )
    settings = TrainSettings(precision="fp32", steps=1 << 30, batch=64)
    trainers = [Trainer(policy, demonstration_data(s, policy), settings, 0) for s in steps.values()]
    rates = _together([trainer.update for trainer in trainers], seconds)
    for name, rate in zip(steps, rates):
        ratio = rate / rates[0]
        results.append({"what": "training", "from": name, "steps_s": rate, "ratio": ratio})
        frames = 64 * rate
        yield f"training, 64 windows a step, {name}: {frames:,.0f} frames/s, {ratio:.2f} of memory"


def _seeing(steps, rows):  # type: ignore[no-untyped-def]
    from dataclasses import replace

    return replace(steps, observation={**steps.observation, "front": rows})


def _store(path: Path, count: int):  # type: ignore[no-untyped-def]
    """Episodes of pictures with few colours and some noise, as simulators draw them."""
    from alltrades.data.episode import Episode
    from alltrades.data.store import EpisodeStore

    rng = np.random.default_rng(0)
    grid = np.arange(SIDE)

    def episode(k: int) -> Episode:
        shade = np.linspace(60, 120, SIDE, dtype=np.float32)[None, :, None, None]
        frames = np.broadcast_to(shade, (EPISODE, SIDE, SIDE, 3)).astype(np.uint8).copy()
        for colour in rng.integers(0, 256, (4, 3)):
            y, x = np.cumsum(rng.integers(-2, 3, (2, EPISODE)), 1) % SIDE
            near = (grid[:, None] - y[:, None, None]) ** 2 + (grid - x[:, None, None]) ** 2 < 40
            frames[near] = colour
        return Episode.from_arrays({"front": frames}, rng.uniform(-1, 1, (EPISODE, 1)), "a", seed=k)

    return EpisodeStore.write(path, map(episode, range(max(1, count // EPISODE))))
