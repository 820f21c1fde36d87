"""Folders of .npz files, and Zarr stores of the Diffusion Policy layout."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from alltrades.data.episode import Episode
from alltrades.data.formats.blocks import BLOCK_BYTES
from alltrades.data.formats.npz import MAP
from alltrades.data.interface import Interface


def arrays_of(episode: Episode) -> dict[str, Any]:
    """An episode's fields, action, reward and, where they are known, success, time stamps and
    interventions, by name.
    """
    out: dict[str, Any] = dict(episode.observations)
    out |= {"action": episode.actions, "reward": episode.rewards}
    if episode.success is not None:
        out["success"] = episode.successes
    if episode.timestamps is not None:
        out["timestamp"] = episode.timestamps
    if episode.interventions is not None:
        out["intervention"] = episode.interventions
    return out


def write_npz(
    episodes: Iterable[Episode], out: Path, interface: Interface, rate: float | None
) -> None:
    """A folder of compressed files, one per episode, and the mapping that reads them again."""
    import yaml

    out.mkdir()
    for i, episode in enumerate(episodes):
        np.savez_compressed(out / f"episode_{i:06d}.npz", **arrays_of(episode))
    facts = interface.observation.items()
    fields = {n: {"from": n, **_said(f.names, f.units)} for n, f in facts}
    action = {"from": "action", **_said(interface.action.names, interface.action.units)}
    mapping: dict[str, Any] = {"fields": fields, "action": action, "reward": {"from": "reward"}}
    if (out / "episode_000000.npz").exists():
        with np.load(out / "episode_000000.npz", allow_pickle=False) as first:
            for name in ("success", "timestamp", "intervention"):
                if name in first:
                    mapping[name] = {"from": name}
    if rate is not None:
        mapping["control_hz"] = rate
    mapping["environment"] = interface.id
    (out / MAP).write_text(yaml.safe_dump(mapping, sort_keys=False), encoding="utf-8")


def _said(names: Any, units: Any) -> dict[str, Any]:
    facts = {"names": names, "units": units}
    return {k: list(v) for k, v in facts.items() if v is not None}


def write_zarr(
    episodes: Iterable[Episode], out: Path, interface: Interface, rate: float | None
) -> None:
    """data/KEY (S, ...) and meta/episode_ends (E,), Zarr 2, as their readers expect it. Texts have
    no place in it.
    """
    import zarr

    root = zarr.create_group(str(out), zarr_format=2)
    written: dict[str, Any] = {}
    held: dict[str, list[np.ndarray]] = {}
    ends: list[int] = []
    size = 0

    def flush() -> None:
        for name, parts in held.items():
            value = np.concatenate(parts)
            if name not in written:
                row = max(1, value[0].nbytes)
                chunks = (max(1, min(2**20 // row, 10**5)), *value.shape[1:])
                written[name] = root.create_array(
                    f"data/{name}", shape=(0, *value.shape[1:]), dtype=value.dtype, chunks=chunks
                )
            written[name].append(value)
        held.clear()

    for episode in episodes:
        ends.append(len(episode) + (ends[-1] if ends else 0))
        for name, value in arrays_of(episode).items():
            if not isinstance(value, str):
                held.setdefault(name, []).append(value)
        size += episode.nbytes
        if size >= BLOCK_BYTES:
            flush()
            size = 0
    flush()
    root.create_array("meta/episode_ends", data=np.asarray(ends, np.int64))
