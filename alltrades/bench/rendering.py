"""Pictures per second of environments' cameras."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from alltrades.envs import registry
from alltrades.envs.adapter import EnvAdapter
from alltrades.envs.rendering.made import PLAIN, SIMULATOR
from alltrades.envs.rendering.settings import RenderingSettings
from alltrades.envs.rendering.wanted import with_cameras
from alltrades.envs.spec import EnvSpec

MOVED = 8  # control steps between two timed looks


def rendering(names: Sequence[str], seconds: float, results: list[dict[str, Any]]) -> Iterator[str]:
    """Pictures per second that one process draws of each environment that has cameras, all of them
    in turn: as training has them, and as the simulator itself would draw them. The state changes
    between looks; steps are not timed.
    """
    for spec in registry.resolve(list(names)):
        if not spec.cameras:
            yield f"{spec.id}: it has no cameras"
            continue
        own = all(camera.own_picture for camera in spec.cameras.values())
        for style in (PLAIN,) if own else (PLAIN, SIMULATOR):
            settings = RenderingSettings(cameras=tuple(spec.cameras), style=style)
            made = with_cameras(spec, settings)
            wall, processor = _rates(made, seconds)
            sizes = {f"{c.height} x {c.width}" for c in spec.cameras.values()}
            backend = "its own" if own else made.rendering.backend if made.rendering else ""
            results.append(
                {
                    "environment": spec.id,
                    "cameras": list(spec.cameras),
                    "style": style,
                    "backend": backend,
                    "per_second": wall,
                    "per_processor_second": processor,
                }
            )
            yield (
                f"{spec.id}: {', '.join(spec.cameras)}, {', '.join(sorted(sizes))}, {backend}, "
                f"{style}: {wall:,.0f} pictures/s ({processor:,.0f} per second of processor time)"
            )


def _rates(spec: EnvSpec, seconds: float) -> tuple[float, float]:
    """Pictures per second, and per second of processor time."""
    adapter, rng = EnvAdapter(spec), np.random.default_rng(0)
    pictures, wall, processor, episode = 0, 0.0, 0.0, 0
    adapter.reset(episode)
    done = False
    while wall < seconds:
        if done:
            episode += 1
            adapter.reset(episode)
        for _ in range(MOVED):
            done = adapter.step(rng.uniform(*spec.action.box), ()).done
            if done:
                break
        begun = time.perf_counter(), time.process_time()
        adapter.look()
        wall += time.perf_counter() - begun[0]
        processor += time.process_time() - begun[1]
        pictures += len(spec.cameras)
    adapter.close()
    return pictures / wall, pictures / max(processor, 1e-9)
