"""robomimic's HDF5 files, and Minari data sets."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from alltrades.data.episode import Episode
from alltrades.data.fields import text_field
from alltrades.data.formats.recording import OWN
from alltrades.data.interface import Interface
from alltrades.errors import UserError


def write_robomimic(
    episodes: Iterable[Episode], out: Path, interface: Interface, rate: float | None
) -> None:
    """data/demo_N with obs/, actions, rewards, dones; the instruction also as `lang` of ep_meta."""
    import h5py

    total, told = 0, text_field(interface.observation)
    with h5py.File(out, "w") as file:
        data = file.create_group("data")
        for i, episode in enumerate(episodes):
            demo = data.create_group(f"demo_{i}")
            demo.attrs["num_samples"] = len(episode)
            for name, value in episode.observations.items():
                if name == told:
                    demo.attrs["ep_meta"] = json.dumps({"lang": value})
                if isinstance(value, str):
                    demo[f"obs/{name}"] = _text(name, value)
                else:
                    packed = {"compression": "gzip"} if value.ndim == 4 else {}
                    demo.create_dataset(f"obs/{name}", data=value, **packed)
            done = episode.successes.copy()
            done[-1] = True
            demo["actions"], demo["rewards"] = episode.actions, episode.rewards
            demo["dones"] = done.astype(np.int64)
            if episode.success is not None:
                demo["success"] = episode.successes
            if episode.timestamps is not None:
                demo["timestamp"] = episode.timestamps
            if episode.interventions is not None:
                demo["interventions"] = episode.interventions
            total += len(episode)
        kwargs = {} if rate is None else {"control_freq": rate}
        facts = {"env_name": interface.id, "type": 2, "env_kwargs": kwargs}
        data.attrs["env_args"] = json.dumps(facts)
        data.attrs["total"] = total
        data.attrs[OWN] = json.dumps({"instruction": told})


def write_minari(
    episodes: Iterable[Episode], out: Path, interface: Interface, rate: float | None
) -> None:
    """HDF5 with the spaces of the fields; the observation after the last action, which stores do
    not have, is the one before it.
    """
    from gymnasium import spaces
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    seen: dict[str, Any] = {}
    for name, f in interface.observation.items():
        if f.kind == "text":
            seen[name] = spaces.Text(10**4)
        elif f.kind == "image":
            high = 1.0 if f.dtype == "float32" else np.iinfo(f.dtype).max
            seen[name] = spaces.Box(0, high, f.shape, np.dtype(f.dtype).type)
        else:
            seen[name] = spaces.Box(-np.inf, np.inf, f.shape, np.dtype(f.dtype).type)
    acts = spaces.Box(-np.inf, np.inf, (interface.action_dim,), np.float32)
    out.mkdir()
    storage = MinariStorage.new(  # which puts relative folders below themselves
        (out / "data").absolute(), spaces.Dict(seen), acts, None, "hdf5", jpeg_encoding=False
    )
    for i, episode in enumerate(episodes):
        done = np.zeros(len(episode), bool)
        done[-1] = True
        infos: dict[str, Any] = {}
        if episode.success is not None:
            infos["success"] = np.concatenate([[False], episode.successes])
        if episode.timestamps is not None:
            infos["timestamp"] = np.concatenate([episode.timestamps[:1], episode.timestamps])
        if episode.interventions is not None:
            infos["intervention"] = np.concatenate([[False], episode.interventions])
        storage.update_episodes(
            [
                EpisodeBuffer(
                    id=i,
                    seed=episode.seed,
                    observations={
                        k: _longer(k, v, len(episode)) for k, v in episode.observations.items()
                    },
                    actions=episode.actions,
                    rewards=list(episode.rewards),
                    terminations=list(done & episode.successes),
                    truncations=list(done & ~episode.successes),
                    infos=infos or None,
                )
            ]
        )
    name = interface.id.replace("/", "-")
    file = out / "data" / "metadata.json"
    facts = json.loads(file.read_text("utf-8"))
    facts |= {"dataset_id": f"{name}-v0", "minari_version": _version()}
    facts[OWN] = {"instruction": text_field(interface.observation)}
    file.write_text(json.dumps(facts), encoding="utf-8")


def _text(name: str, value: str) -> str:
    """What HDF5 keeps; UserError for what it cannot."""
    if "\0" in value:
        raise UserError(
            f"'{name}' = {value[:40]!r} holds a NUL character, which HDF5 cannot keep; expected a "
            "text without; mend it, or export to lerobot or npz"
        )
    return value


def _longer(name: str, value: Any, steps: int) -> Any:
    if isinstance(value, str):
        return [_text(name, value)] * (steps + 1)
    return np.concatenate([value, value[-1:]])


def _version() -> str:
    from importlib.metadata import version

    return version("minari")
