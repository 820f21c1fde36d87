"""Episodes to keep, and a writer of format 1 as it was."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import zarr

from alltrades.data.episode import Episode
from alltrades.data.steps import Steps

COLUMNS = {
    "environment": "int32",
    "source": "int32",
    "seed": "uint64",
    "success": "bool",
    "first_success": "int64",
    "return": "float64",
    "observation_dim": "int32",
    "action_dim": "int32",
    "has_actions": "bool",
}


def episode(
    seed=0, length=5, obs=3, act=2, environment="a", source="expert", actions=True
) -> Episode:
    rng = np.random.default_rng(seed)
    success = np.zeros(length, bool)
    success[-1] = seed % 2 == 0
    return Episode(
        {"state": rng.normal(size=(length, obs)).astype(np.float32)},
        rng.normal(size=(length, act)).astype(np.float32) if actions else None,
        rng.normal(size=length).astype(np.float32),
        success,
        environment,
        source,
        seed,
        bool(success.any()),
        length if success.any() else -1,
        1.5,
    )


TEXTS = [
    "lift the plate",
    "",
    "zwölf Äpfel \u2013 \u6a5f\u68b0\u81c2 \U0001f9be",
    "ends with nothing \0",
    "\ud800 half of a pair",
    "e\u0301 is not \u00e9",
    "line\nand\ttab\r\n",
    "long " * 3000,
]


def rich_episode(seed=0, length=4, environment="rich", actions=True, **further) -> Episode:
    """Fields of every kind; names that also stand beside the fields in a store."""
    rng = np.random.default_rng(seed)
    return Episode.from_arrays(
        {
            "state": rng.normal(size=(length, 3)),
            "images.front": rng.integers(0, 256, (length, 12, 16, 3), np.uint8),
            "images.wrist": rng.integers(0, 256, (length, 5, 7, 4), np.uint8),
            "depth": rng.integers(0, 2**16, (length, 9, 5, 1), np.uint16),
            "heat": rng.random((length, 4, 4, 1), np.float32),
            "instruction": TEXTS[seed % len(TEXTS)],
            "action": rng.normal(size=(length, 1)),
            "success": f"try {seed}",
            **further,
        },
        rng.uniform(-1, 1, (length, 2)) if actions else None,
        environment,
        seed=seed,
    )


def states(value: Episode | Steps):
    """Values of the field `state`."""
    if isinstance(value, Steps):
        return value.observation["state"]
    state = value.observations["state"]
    assert not isinstance(state, str)
    return state


def same(a: Episode, b: Episode) -> bool:
    arrays = [(a.rewards, b.rewards), (a.successes, b.successes)]
    if a.actions is not None and b.actions is not None:
        arrays.append((a.actions, b.actions))
    facts = ("environment", "source", "seed", "success", "first_success", "return_")
    return (
        all(np.array_equal(x, y) for x, y in arrays)
        and all(getattr(a, f) == getattr(b, f) for f in facts)
        and (a.actions is None) == (b.actions is None)
        and a.observations.keys() == b.observations.keys()
        and all(_equal(value, b.observations[name]) for name, value in a.observations.items())
    )


def _equal(a, b) -> bool:
    if isinstance(a, str) or isinstance(b, str):
        return isinstance(a, str) and isinstance(b, str) and a == b
    return a.dtype == b.dtype and np.array_equal(a, b)


def write_format_1(path: Path, episodes: Sequence[Episode], provenance: dict | None = None) -> None:
    """A store of format 1: all environments in the same arrays, padded to the widest."""
    width = max(states(e).shape[1] for e in episodes)
    action_width = max(0 if e.actions is None else e.actions.shape[1] for e in episodes)
    lengths = np.array([len(e) for e in episodes])
    environments, sources = (
        list(dict.fromkeys(getattr(e, name) for e in episodes))
        for name in ("environment", "source")
    )
    observation = np.zeros((lengths.sum(), width), np.float32)
    action = np.zeros((lengths.sum(), action_width), np.float32)
    for e, end in zip(episodes, np.cumsum(lengths)):
        observation[end - len(e) : end, : states(e).shape[1]] = states(e)
        if e.actions is not None:
            action[end - len(e) : end, : e.actions.shape[1]] = e.actions
    columns = {
        "environment": [environments.index(e.environment) for e in episodes],
        "source": [sources.index(e.source) for e in episodes],
        "seed": [e.seed for e in episodes],
        "success": [e.success for e in episodes],
        "first_success": [e.first_success for e in episodes],
        "return": [e.return_ for e in episodes],
        "observation_dim": [states(e).shape[1] for e in episodes],
        "action_dim": [0 if e.actions is None else e.actions.shape[1] for e in episodes],
        "has_actions": [e.actions is not None for e in episodes],
    }
    group = zarr.open_group(str(path), mode="w", zarr_format=3)
    for name, value in {
        "data/observation": observation,
        "data/action": action,
        "data/reward": np.concatenate([e.rewards for e in episodes]).astype(np.float32),
        "data/success": np.concatenate([e.successes for e in episodes]),
        "meta/episode_ends": np.cumsum(lengths),
        **{f"meta/{k}": np.array(v, dtype=COLUMNS[k]) for k, v in columns.items()},
    }.items():
        tail = value.shape[1:]
        array = group.create_array(name, shape=(0, *tail), chunks=(4096, *tail), dtype=value.dtype)
        array.resize(value.shape)
        array[:] = value
    commit = {
        "format_version": 1,
        "episodes": len(episodes),
        "steps": int(lengths.sum()),
        "environments": environments,
        "sources": sources,
        "provenance": provenance or {},
    }
    (path / "commit.json").write_text(json.dumps(commit, indent=1, sort_keys=True))
