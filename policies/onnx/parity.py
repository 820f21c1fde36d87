"""Windows on which a graph and its policy are compared, and how far they are from one another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from alltrades.data.examples import random_frames
from alltrades.data.layout import Window
from alltrades.data.store import EpisodeStore
from alltrades.data.text import text_features
from alltrades.data.windows import WindowIndex
from alltrades.errors import UserError
from alltrades.policies.model.policy import DiffusionPolicy
from alltrades.policies.onnx.onnx_policy import INPUTS, OUTPUT, input_names

ROWS = 1000  # windows of a check, random ones and as many of a store
FEW, BYTES = 16, 2**23  # of large images as many as this holds, and at least so many
PIECE = 256  # rows that are compared at once


def check_windows(
    policy: DiffusionPolicy,
    observations: Mapping[str, Window] | None = None,
    rows: int = ROWS,
    seed: int = 0,
) -> tuple[Window, np.ndarray]:
    """Windows of N rows and their environments (N,) int64 on which graph and policy are compared.

    `rows` of them (of large images fewer) are random, environments in turn: states uniform within
    three deviations of the mean of the normaliser, any pixels, some words. The given ones, id ->
    window of the policy's layout, follow.
    """
    rng, layout = np.random.default_rng(seed), policy.layout
    count, rows = len(policy.environments), _affordable(policy, rows)
    environment = np.arange(max(rows, count), dtype=np.int64) % count
    mean, scale, mask = (
        getattr(policy.normalizer, n).cpu().numpy()[environment][:, None]
        for n in ("obs_mean", "obs_scale", "obs_mask")
    )  # (N, 1, D)
    spread = rng.uniform(-3, 3, (len(environment), policy.n_obs_steps, layout.state_dim))
    states = (mean + spread * scale) * mask
    window = layout.empty(len(environment), frames=policy.n_obs_steps)
    for key, own in layout.slices.items():
        window[key][...] = states[..., own]
    for index, info in enumerate(policy.environments):
        for name, f in info.observation.items():
            values = window[layout.fields[index][name]]
            for row in np.flatnonzero(environment == index) if f.kind != "state" else ():
                found = random_frames(info.seeing([name]), policy.n_obs_steps, rng)[name]
                values[row] = text_features(found) if isinstance(found, str) else found
    parts, indices = [window], [environment]
    for name, given in (observations or {}).items():
        index = policy.environment_index(name)
        for key, values in layout.empty(1, frames=policy.n_obs_steps).items():
            shape = np.shape(given.get(key, ()))
            if shape[1:] != values.shape[1:]:
                raise UserError(
                    f"windows of '{name}' have shape {shape} of {key}; expected (n, "
                    f"{str(values.shape[1:])[1:]}, in that environment's units"
                )
        parts.append({key: given[key] for key in window})
        indices.append(np.full(rows_of(given), index, dtype=np.int64))
    joined = {key: np.concatenate([part[key] for part in parts]) for key in window}
    return joined, np.concatenate(indices)


def _affordable(policy: DiffusionPolicy, rows: int) -> int:
    """So many windows, or as many as `BYTES` hold."""
    one = sum(v.nbytes for v in policy.layout.empty(1, frames=policy.n_obs_steps).values())
    return min(rows, max(FEW, BYTES // one))


def rows_of(window: Window) -> int:
    return len(next(iter(window.values())))


def observed_windows(
    policy: DiffusionPolicy, store: EpisodeStore, rows: int = ROWS, seed: int = 0
) -> dict[str, Window]:
    """Windows of a store's steps, as in training: environment id -> window of the policy's layout.

    About `rows` in all (of large images fewer), as many of each of the policy's environments that
    the store holds, or all their steps where they are fewer. Raises UserError when it holds none of
    them, or other fields.
    """
    found = store.interfaces()
    infos = [e for e in policy.environments if e.id in found]
    steps = store.steps([e.id for e in infos])
    infos = [e for e in infos if (steps.environment == e.id).any()]
    if not infos:
        raise UserError(
            f"{store.path}: holds no episode of "
            f"{', '.join(e.id for e in policy.environments[:12])}; expected observations of the "
            "policy's environments; give another store"
        )
    index, rng, out = (
        WindowIndex(steps.ends, policy.n_obs_steps, 1),
        np.random.default_rng(seed),
        {},
    )
    rows = _affordable(policy, rows)
    for info in infos:
        for name, f in info.observation.items():
            own = found[info.id].observation.get(name)
            if own is None or not own.same(f):
                raise UserError(
                    f"{store.path}: '{info.id}' has {found[info.id].described()}; expected "
                    f"'{name}' ({f}), as in the policy's training"
                )
        taken = np.flatnonzero((steps.environment == info.id)[steps.episode_of_step])
        taken = rng.choice(taken, min(len(taken), -(-rows // len(infos))), replace=False)
        out[info.id] = steps.window(policy.layout, index.take(taken).obs_index)
    return out


def max_relative_error(
    policy: DiffusionPolicy,
    session: Any,
    windows: Window,
    environment: np.ndarray,
    batch: int | None = None,
    seed: int = 1,
) -> float:
    """Largest |graph - PyTorch| over all windows and real action dimensions, as a share of the
    action range.

    The range is that of the environment's box, or twice the normaliser's scale where the box is
    unbounded. `batch` is the graph's batch size; with None, batches of 1 and of the rest, at most
    256 rows, are run. A non-finite difference gives inf. Every second row keeps a part of a known
    chunk.
    """
    rng, shape = np.random.default_rng(seed), (policy.horizon, policy.action_dim)
    count, names = len(environment), input_names(policy.layout)
    noise = rng.standard_normal((count, policy.draws, *shape), dtype=np.float32)
    mean, scale = (
        getattr(policy.normalizer, n).cpu().numpy() for n in ("action_mean", "action_scale")
    )  # (K, A)
    spread = scale[environment][:, None] * rng.uniform(-1, 1, (count, *shape))
    known = (mean[environment][:, None] + spread).astype(np.float32)
    keep = rng.uniform(0, 1, (count, policy.horizon)).round(1).astype(np.float32)
    keep[::2] = 0.0
    rest = (environment, noise, known, keep)
    size = batch or PIECE
    cuts = [*range(0 if batch else 1, count, size), count]
    cuts = cuts if batch else [0, *cuts]
    differences = []
    for start, stop in zip(cuts, cuts[1:]):
        # a fixed batch is filled up
        rows = np.arange(start, stop if batch is None else start + batch) % count
        window, others = {k: v[rows] for k, v in windows.items()}, [x[rows] for x in rest]
        want = policy.act(window, *others)
        feed = {names[k]: v for k, v in window.items()} | dict(zip(INPUTS, others))
        got = session.run([OUTPUT], feed)[0]
        differences.append(np.abs(got - want)[: stop - start])
    difference = np.concatenate(differences)  # (N, H, A)
    layout, spans = policy.layout, 2.0 * scale
    for k, info in enumerate(policy.environments):
        low, high = info.action.box
        own = layout.action(k, spans[k])  # a view
        own[:] = np.where(np.isfinite(high - low) & (high > low), high - low, own)
    relative = difference / spans[environment][:, None]
    relative = relative[np.broadcast_to(layout.action_mask[environment][:, None], relative.shape)]
    return float(relative.max()) if np.isfinite(relative).all() else float("inf")
