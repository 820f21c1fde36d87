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

from alltrades.data.examples import random_frames
from alltrades.data.layout import Window
from alltrades.data.store import EpisodeStore
from alltrades.data.text import text_features
from alltrades.data.windows import WindowIndex
from alltrades.envs import registry
from alltrades.errors import MissingExtra, UserError
from alltrades.policies.artifact import DIGEST, contract_digest
from alltrades.policies.model.policy import DiffusionPolicy
from alltrades.policies.onnx.onnx_policy import (
    CONTRACT_VERSION,
    INPUTS,
    OUTPUT,
    OnnxPolicy,
    input_names,
)
from alltrades.system.files import replacing

OPSET = 17
ROWS = 1000  # windows of the parity check, random ones and as many of a store
FEW, BYTES = 16, 2**23  # of large images as many as this holds, and at least so many
PIECE = 256  # rows that are compared at once
# largest difference from PyTorch, as a share of the action range: samplers of predicted noise make
# some 1e-4 of the rounding of single numbers, by processor and version of onnxruntime
TOLERANCE = 3e-4


FRAMES = "as the environment gives them, oldest first; before an episode's first frame that frame"
UNITS = {
    "state": f"numbers {FRAMES}; zeros in those that the environment does not have",
    "image": f"pixels {FRAMES}; zeros where the environment has no such image",
    "text": "text_features of the episode's text (see alltrades.data.text); zeros where the "
    "environment has none",
}  # of a window's slots


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
    """What is traced: the policy as a function of tensors only, the slots of a window first.

    The exporter knows no uint16: such slots are traced as int32 (see `_retype`).
    """

    def __init__(self, policy: DiffusionPolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, *tensors: Tensor) -> Tensor:
        keys = list(self.policy.layout.slots)
        window, rest = dict(zip(keys, tensors)), tensors[len(keys) :]
        window = {k: v.float() if v.dtype == torch.int32 else v for k, v in window.items()}
        return self.policy.sample_from(window, *rest)


def export_onnx(
    policy: DiffusionPolicy,
    path: Path | str,
    batch: int | None = None,
    observations: Mapping[str, Window] | None = None,
) -> ExportReport:
    """Write `path` and `path` with the suffix .json, after checking the graph against PyTorch.

    Graph: every slot of a window, (B, n_obs_steps, *shape) of its dtype, under a name of its own
    (see `input_names`), environment (B,) int64, noise (B, draws, horizon, action_dim) float32 from
    a standard normal, known (B, horizon, action_dim) and keep (B, horizon) float32 -> actions (B,
    horizon, action_dim) float32 in environment units. States of environments with fewer numbers are
    padded with zeros at the end, fields that an environment lacks are zero; of its actions the
    first action_dim count. keep = 1 fixes a step to that of `known`; 0 leaves it free. A policy
    that takes a preference is exported with the one that it was told by `set_preference`; the
    contract names it.

    Args:
        batch: fixed batch size B; None for any.
        observations: windows for the check besides the random ones, by environment id (see
            `observed_windows`).

    Raises UserError when packages of the `export` extra are missing or the graph differs from
    PyTorch by more than 3e-4 of the action range; nothing is written then.
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
        observed = sum(map(_rows, (observations or {}).values()))
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
        facts = _contract(policy, path.name, graph, batch, _rows(windows), observed, error)
        staged.write_text(json.dumps(facts, indent=1))
    return ExportReport(path, contract, path.stat().st_size, _rows(windows), observed, error)


def compiled(policy: DiffusionPolicy, batch: int | None = None) -> OnnxPolicy:
    """The policy as onnxruntime computes it on one processor thread, checked against PyTorch;
    nothing is left on disk.

    Raises UserError like `export_onnx`.
    """
    with TemporaryDirectory(prefix="alltrades-") as folder:
        out = OnnxPolicy(export_onnx(policy, Path(folder) / "policy.onnx", batch).path)
    out.unknown_instruction = policy.unknown_instruction
    return out


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
        indices.append(np.full(_rows(given), index, dtype=np.int64))
    joined = {key: np.concatenate([part[key] for part in parts]) for key in window}
    return joined, np.concatenate(indices)


def _affordable(policy: DiffusionPolicy, rows: int) -> int:
    """So many windows, or as many as `BYTES` hold."""
    one = sum(v.nbytes for v in policy.layout.empty(1, frames=policy.n_obs_steps).values())
    return min(rows, max(FEW, BYTES // one))


def _rows(window: Window) -> int:
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


def _trace(policy: DiffusionPolicy, path: Path, batch: int | None) -> None:
    rows = batch or 2
    window = policy.layout.empty(rows, frames=policy.n_obs_steps)
    example = (
        *(
            torch.from_numpy(v.astype(np.int32) if v.dtype == np.uint16 else v)
            for v in window.values()
        ),
        torch.zeros(rows, dtype=torch.long),
        torch.zeros(rows, policy.draws, policy.horizon, policy.action_dim),
        torch.zeros(rows, policy.horizon, policy.action_dim),
        torch.zeros(rows, policy.horizon),
    )
    names = [*input_names(policy.layout).values(), *INPUTS]
    axes = None if batch else {name: {0: "batch"} for name in (*names, OUTPUT)}
    # an operator of ONNX that this exporter does not know
    torch.onnx.register_custom_op_symbolic("aten::asinh", lambda g, x: g.op("Asinh", x), OPSET)
    with warnings.catch_warnings(), torch.no_grad():
        # the tracing exporter is deprecated in favour of one that needs another package; the check
        # above guards it
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", "Constant folding", UserWarning)
        # shape checks, of sizes that do not change; the check runs two batch sizes
        for module in (r"torch\.nn\.functional", r"alltrades\.data\.layout"):
            warnings.filterwarnings("ignore", category=torch.jit.TracerWarning, module=module)
        torch.onnx.export(
            _Graph(policy),
            example,
            str(path),
            input_names=names,
            output_names=[OUTPUT],
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
    wide = {names[i] for i, v in enumerate(window.values()) if v.dtype == np.uint16}
    if wide:
        _retype(path, wide)


def _retype(path: Path, names: set[str]) -> None:
    """Let inputs of a graph, which are cast to float at once, be uint16."""
    onnx = import_module("onnx")
    model = onnx.load(path)
    for value in model.graph.input:
        if value.name in names:
            value.type.tensor_type.elem_type = onnx.TensorProto.UINT16
    onnx.save(model, path)


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
    settings, layout = policy.settings, policy.layout
    names, window = input_names(layout), layout.empty(frames=policy.n_obs_steps)
    facts = {
        "contract_version": CONTRACT_VERSION,
        "graph": name,
        "sha256": sha256(graph).hexdigest(),
        "policy": policy.digest(),
        **({"sentences": policy.reading[0].known} if policy.reading else {}),
        "inputs": {
            **{
                names[key]: {
                    "shape": [size, *window[key].shape],
                    "dtype": slot.dtype,
                    "units": UNITS[slot.kind],
                }
                for key, slot in layout.slots.items()
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
        "fields": {
            e.id: {field: names[key] for field, key in own.items()}
            for e, own in zip(policy.environments, layout.fields)
        },
        "action_dim": policy.action_dim,
        "draws": policy.draws,
        "n_obs_steps": policy.n_obs_steps,
        "horizon": policy.horizon,
        "n_action_steps": policy.n_action_steps,
        "sampler": settings.sampler,
        "steps": settings.sampling_steps,
        "process": settings.process,
        "preference": policy.chosen_preference(),
        "plugins": registry.loaded_plugins(),
        "parity": {
            "rows": rows,
            "observed": observed,
            "max_error": error,
            "relative_to": "action range",
        },
    }
    return facts | {DIGEST: contract_digest(facts)}


def require_packages() -> ModuleType:
    """onnxruntime; UserError where it or onnx is not installed."""
    try:
        import_module("onnx")
        return import_module("onnxruntime")
    except ImportError as error:
        raise MissingExtra(
            f"package {error.name} is not installed; expected the export extra", "export"
        ) from error
