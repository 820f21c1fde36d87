"""Observations made up at random, for warming up, checks and benches. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alltrades.data.fields import Field, Observation
from alltrades.data.interface import Interface

WORDS = ("push", "the", "red", "cup", "left", "of", "a", "plate")


def random_frames(
    interface: Interface, count: int, rng: np.random.Generator, said: Sequence[str] = ()
) -> Observation:
    """`count` frames of every field of an environment: standard normal states, uniform images, one
    of the sentences `said`, or some words.
    """
    return {name: _values(f, count, rng, said) for name, f in interface.observation.items()}


def random_observation(interface: Interface, rng: np.random.Generator) -> Observation:
    """One observation of an environment, see `random_frames`."""
    frames = random_frames(interface, 1, rng)
    return {name: v if isinstance(v, str) else v[0] for name, v in frames.items()}


def _values(
    f: Field, count: int, rng: np.random.Generator, said: Sequence[str] = ()
) -> np.ndarray | str:
    if f.kind == "text":
        return str(rng.choice(said)) if said else " ".join(rng.choice(WORDS, 4))
    if f.kind == "state":
        return rng.standard_normal((count, *f.shape)).astype(f.dtype)
    if f.dtype == "float32":
        return rng.random((count, *f.shape), dtype=np.float32)
    most = np.iinfo(f.dtype).max
    return rng.integers(0, most, (count, *f.shape), f.dtype, endpoint=True)
