"""Policy -> one ONNX graph that holds normaliser, environment conditioning and the whole sampling
loop.

The file runs without PyTorch (`onnx_policy.OnnxPolicy`). Beside it a JSON contract says what the
graph expects and gives. Noise is an input, that of every step for stochastic samplers: the caller
draws it, the graph is deterministic. The graph does not clip actions to the environment's box: the
contract holds the bounds, and `guard.ActionGuard` (NumPy only) applies them.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from alltrades.data.store import EpisodeStore
from alltrades.data.windows import WindowIndex
from alltrades.errors import MissingExtra, UserError
from alltrades.policies.model.policy import DiffusionPolicy
from alltrades.policies.onnx.onnx_policy import CONTRACT_VERSION, INPUTS, OUTPUT, OnnxPolicy
from alltrades.system.files import replacing

OPSET = 17
ROWS = 1000  # windows of the parity check, random ones and as many of a store
TOLERANCE = 1e-4  # largest difference from PyTorch, as a share of the action range


@dataclass(frozen=True)
class ExportReport:
    """Where the graph and its contract are, and how far the graph is from PyTorch.

    max_error is the largest absolute difference over `rows` windows, as a share of the action
    range; `observed` of them were given, the others random.
    """

    path: Path
    contract: Path
    size: int
    rows: int
    observed: int
    max_error: float


class _Graph(nn.Module):
    """What is traced: the policy as a function of tensors only."""

    def __init__(self, policy: DiffusionPolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(
        self, window: Tensor, environment: Tensor, noise: Tensor, known: Tensor, keep: Tensor
    ) -> Tensor:
        return self.policy.sample_from(window, environment, noise, known, keep)


def export_onnx(
    policy: DiffusionPolicy,
    path: Path | str,
    batch: int | None = None,
    observations: Mapping[str, np.ndarray] | None = None,
) -> ExportReport:
    """Write `path` and `path` with the suffix .json, after checking the graph against PyTorch.

    Graph: window (B, n_obs_steps, obs_dim) float32, environment (B,) int64, noise (B, draws,
    horizon, action_dim) float32 from a standard normal, known (B, horizon, action_dim) and keep (B,
    horizon) float32 -> actions (B, horizon, action_dim) float32 in environment units. Windows of
    environments with fewer dimensions are padded with zeros at the end; of their actions the first
    action_dim count. keep = 1 fixes a step to that of `known`; 0 leaves it free. A policy that
    takes a preference is exported with the one that it was told by `set_preference`; the contract
    names it.

    Args:
        batch: fixed batch size B; None for any.
        observations: windows for the check besides the 1,000 random ones (see `observed_windows`):
            environment id -> (N, n_obs_steps, its obs_dim).

    Raises UserError when packages of the `export` extra are missing or the graph differs from
    PyTorch by more than 1e-4 of the action range; nothing is written then.
    """
    runtime = require_packages()
    if batch is not None and batch < 1:
        raise UserError(f"batch {batch}; expected at least 1, or none for any batch size")
    path = Path(path)
    if path.suffix != ".onnx":
        raise UserError(f"{path.name}: expected a name ending in .onnx; rename it")
    policy = copy.deepcopy(policy).cpu().eval()  # the caller's stays where it is
    contract = path.with_suffix(".json")
    with replacing(path) as partial, replacing(contract) as staged:
        _trace(policy, partial, batch)
        windows, environment = check_windows(policy, observations)
        observed = sum(map(len, (observations or {}).values()))
        error = max_relative_error(
            policy,
            runtime.InferenceSession(str(partial), providers=["CPUExecutionProvider"]),
            windows,
            environment,
            batch,
        )
        if not error <= TOLERANCE:
            raise UserError(
                f"exported graph differs from PyTorch by {error:.1e} of the action range; expected "
                f"at most {TOLERANCE:.0e}; nothing was written, please report the policy's settings"
            )
        graph = partial.read_bytes()
        facts = _contract(policy, path.name, graph, batch, len(windows), observed, error)
        staged.write_text(json.dumps(facts, indent=1))
    return ExportReport(path, contract, path.stat().st_size, len(windows), observed, error)


def compiled(policy: DiffusionPolicy, batch: int | None = None) -> OnnxPolicy:
    """The policy as onnxruntime computes it on one processor thread, checked against PyTorch;
    nothing is left on disk.

    Raises UserError like `export_onnx`.
    """
    with TemporaryDirectory(prefix="alltrades-") as folder:
        return OnnxPolicy(export_onnx(policy, Path(folder) / "policy.onnx", batch).path)


def check_windows(
    policy: DiffusionPolicy,
    observations: Mapping[str, np.ndarray] | None = None,
    rows: int = ROWS,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Windows (N, n_obs_steps, obs_dim) float32 and their environments (N,) int64 on which graph
    and policy are compared.

    `rows` of them are uniform within three deviations of the mean of the normaliser, environments
    in turn; the given ones, id -> (n, n_obs_steps, obs_dim of that environment), follow.
    """
    rng = np.random.default_rng(seed)
    count = len(policy.environments)
    environment = np.arange(max(rows, count), dtype=np.int64) % count
    mean, scale, mask = (
        getattr(policy.normalizer, n).cpu().numpy()[environment][:, None]
        for n in ("obs_mean", "obs_scale", "obs_mask")
    )  # (N, 1, D)
    spread = rng.uniform(-3, 3, (len(environment), policy.n_obs_steps, policy.obs_dim))
    windows, indices = [(mean + spread * scale) * mask], [environment]
    for name, given in (observations or {}).items():
        index = policy.environment_index(name)
        expected = (policy.n_obs_steps, policy.environments[index].obs_dim)
        if np.ndim(given) != 3 or given.shape[1:] != expected:
            raise UserError(
                f"windows of '{name}' have shape {np.shape(given)}; expected (n, {expected[0]}, "
                f"{expected[1]}), in that environment's units"
            )
        windows.append(policy.layout.pack_observation(given))
        indices.append(np.full(len(given), index, dtype=np.int64))
    return np.concatenate(windows).astype(np.float32), np.concatenate(indices)


def observed_windows(
    policy: DiffusionPolicy, store: EpisodeStore, rows: int = ROWS, seed: int = 0
) -> dict[str, np.ndarray]:
    """Windows of a store's steps, as in training: environment id -> (n, n_obs_steps, its obs_dim)
    float32.

    About `rows` in all, as many of each of the policy's environments that the store holds, or all
    their steps where they are fewer. Raises UserError when it holds none of them, or observations
    of another size.
    """
    steps, sizes = store.steps(), store.columns()["observation_dim"]
    infos = [e for e in policy.environments if (steps.environment == e.id).any()]
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
    for info in infos:
        mine = steps.environment == info.id
        found = sorted({int(d) for d in sizes[mine]})
        if found != [info.obs_dim]:
            raise UserError(
                f"{store.path}: observations of '{info.id}' have {', '.join(map(str, found))} "
                f"values; expected {info.obs_dim}, as in the policy's training"
            )
        taken = np.flatnonzero(mine[steps.episode_of_step])
        taken = rng.choice(taken, min(len(taken), -(-rows // len(infos))), replace=False)
        windows = steps.observation[index.take(taken).obs_index]
        out[info.id] = policy.layout.observation(policy.environment_index(info.id), windows)
    return out


def max_relative_error(
    policy: DiffusionPolicy,
    session: Any,
    windows: np.ndarray,
    environment: np.ndarray,
    batch: int | None = None,
    seed: int = 1,
) -> float:
    """Largest |graph - PyTorch| over all windows and real action dimensions, as a share of the
    action range.

    The range is that of the environment's box, or twice the normaliser's scale where the box is
    unbounded. `batch` is the graph's batch size; with None, batches of 1 and of the rest are run. A
    non-finite difference gives inf. Every second row keeps a part of a known chunk.
    """
    rng, shape = np.random.default_rng(seed), (policy.horizon, policy.action_dim)
    noise = rng.standard_normal((len(windows), policy.draws, *shape), dtype=np.float32)
    mean, scale = (
        getattr(policy.normalizer, n).cpu().numpy() for n in ("action_mean", "action_scale")
    )
    known = (mean + scale * rng.uniform(-1, 1, (len(windows), *shape))).astype(np.float32)
    keep = rng.uniform(0, 1, (len(windows), policy.horizon)).round(1).astype(np.float32)
    keep[::2] = 0.0
    whole = (windows, environment, noise, known, keep)
    want = policy.act(*whole)
    cuts = (
        [0, 1, len(windows)]
        if batch is None
        else list(range(0, len(windows), batch)) + [len(windows)]
    )
    parts = []
    for start, stop in zip(cuts, cuts[1:]):
        rows = np.arange(start, stop if batch is None else start + batch) % len(
            windows
        )  # a fixed batch is filled up
        feed = dict(zip(INPUTS, (x[rows] for x in whole)))
        parts.append(session.run([OUTPUT], feed)[0][: stop - start])
    difference = np.abs(np.concatenate(parts) - want)  # (N, H, A)
    scale = 2.0 * scale
    layout = policy.layout
    spans = np.tile(scale, (len(policy.environments), 1))
    for k, info in enumerate(policy.environments):
        span = np.asarray(info.action.high) - np.asarray(info.action.low)
        own = layout.action(k, spans[k])  # a view
        own[:] = np.where(np.isfinite(span) & (span > 0), span, own)
    relative = difference / spans[environment][:, None]
    relative = relative[np.broadcast_to(layout.action_mask[environment][:, None], relative.shape)]
    return float(relative.max()) if np.isfinite(relative).all() else float("inf")


def _trace(policy: DiffusionPolicy, path: Path, batch: int | None) -> None:
    rows = batch or 2
    example = (
        torch.zeros(rows, policy.n_obs_steps, policy.obs_dim),
        torch.zeros(rows, dtype=torch.long),
        torch.zeros(rows, policy.draws, policy.horizon, policy.action_dim),
        torch.zeros(rows, policy.horizon, policy.action_dim),
        torch.zeros(rows, policy.horizon),
    )
    axes = None if batch else {name: {0: "batch"} for name in (*INPUTS, OUTPUT)}
    with warnings.catch_warnings(), torch.no_grad():
        # the tracing exporter is deprecated in favour of one that needs another package; the check
        # above guards it
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", "Constant folding", UserWarning)
        # shape checks inside torch itself; the check runs two batch sizes
        warnings.filterwarnings(
            "ignore", category=torch.jit.TracerWarning, module=r"torch\.nn\.functional"
        )
        torch.onnx.export(
            _Graph(policy),
            example,
            str(path),
            input_names=list(INPUTS),
            output_names=[OUTPUT],
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )


def _contract(
    policy: DiffusionPolicy,
    name: str,
    graph: bytes,
    batch: int | None,
    rows: int,
    observed: int,
    error: float,
) -> dict[str, Any]:
    size: int | str = batch or "batch"
    settings = policy.settings
    return {
        "contract_version": CONTRACT_VERSION,
        "graph": name,
        "sha256": sha256(graph).hexdigest(),
        "policy": policy.digest(),
        "inputs": {
            "window": {
                "shape": [size, policy.n_obs_steps, policy.obs_dim],
                "dtype": "float32",
                "units": "observations as the environment gives them, oldest first; before an "
                "episode's first frame that frame; zeros in dimensions that the environment does "
                "not have",
            },
            "environment": {
                "shape": [size],
                "dtype": "int64",
                "units": "position in the list of environments",
            },
            "noise": {
                "shape": [size, policy.draws, policy.horizon, policy.action_dim],
                "dtype": "float32",
                "units": "standard normal, drawn anew for every chunk",
            },
            "known": {
                "shape": [size, policy.horizon, policy.action_dim],
                "dtype": "float32",
                "units": "actions that are already decided, as the environment takes them; zeros "
                "where there are none",
            },
            "keep": {
                "shape": [size, policy.horizon],
                "dtype": "float32",
                "units": "1 keeps that step of `known`, 0 leaves it free, between them a "
                "compromise; zeros for none",
            },
        },
        "outputs": {
            OUTPUT: {
                "shape": [size, policy.horizon, policy.action_dim],
                "dtype": "float32",
                "units": "as the environment takes them, first to last step; not clipped to its "
                "box; dimensions beyond its action_dim mean nothing",
            },
        },
        "environments": [e.to_json() for e in policy.environments],
        "obs_dim": policy.obs_dim,
        "action_dim": policy.action_dim,
        "draws": policy.draws,
        "n_obs_steps": policy.n_obs_steps,
        "horizon": policy.horizon,
        "n_action_steps": policy.n_action_steps,
        "sampler": settings.sampler,
        "steps": settings.sampling_steps,
        "process": settings.process,
        "preference": policy.chosen_preference(),
        "parity": {
            "rows": rows,
            "observed": observed,
            "max_error": error,
            "relative_to": "action range",
        },
    }


def require_packages() -> ModuleType:
    """onnxruntime; UserError where it or onnx is not installed."""
    try:
        import_module("onnx")
        return import_module("onnxruntime")
    except ImportError as error:
        raise MissingExtra(
            f"package {error.name} is not installed; expected the export extra", "export"
        ) from error
