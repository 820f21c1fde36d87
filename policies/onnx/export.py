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

from alltrades.data.layout import Window
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
from alltrades.policies.onnx.parity import check_windows, max_relative_error, rows_of
from alltrades.system.files import replacing

OPSET = 17
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
        observed = sum(map(rows_of, (observations or {}).values()))
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
        facts = _contract(policy, path.name, graph, batch, rows_of(windows), observed, error)
        staged.write_text(json.dumps(facts, indent=1))
    return ExportReport(path, contract, path.stat().st_size, rows_of(windows), observed, error)


def compiled(policy: DiffusionPolicy, batch: int | None = None) -> OnnxPolicy:
    """The policy as onnxruntime computes it on one processor thread, checked against PyTorch;
    nothing is left on disk.

    Raises UserError like `export_onnx`.
    """
    with TemporaryDirectory(prefix="alltrades-") as folder:
        out = OnnxPolicy(export_onnx(policy, Path(folder) / "policy.onnx", batch).path)
    out.unknown_instruction = policy.unknown_instruction
    return out


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
        **({"sentences": [*policy.sentences]} if policy.sentences else {}),
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
