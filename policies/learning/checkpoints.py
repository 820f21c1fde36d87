"""Files of a training: checkpoints from which it goes on, and averaged weights that another one may
end with.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from alltrades.policies.model.policy import DiffusionPolicy
from alltrades.system.files import replacing, write_text


def nothing() -> None:
    """Nobody to wait for."""


@dataclass(frozen=True)
class Place:
    """Where a training keeps its files; nowhere by default.

    Attributes:
        work: folder of checkpoints; an interrupted training goes on from the last one.
        averages: folder of the averaged weights at the looks of a training (see `look_steps`): kept
            by one that goes to its last step, looked for by one that stops at one of them.
        selected: called before averages are looked for, such as to wait for who keeps them.
    """

    work: Path | None = None
    averages: Path | None = None
    selected: Callable[[], object] = nothing

    def within(self, name: str) -> Place:
        """A folder of checkpoints in this one."""
        return replace(self, work=None if self.work is None else self.work / name)


def write_checkpoint(
    folder: Path, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]
) -> None:
    """Write checkpoint-STEP.safetensors, then checkpoint.json, which names it and holds `facts`;
    older ones go.
    """
    target = folder / f"checkpoint-{step}.safetensors"
    with replacing(target) as partial:
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, partial)
    write_text(folder / "checkpoint.json", json.dumps({"step": step, "file": target.name, **facts}))
    for old in folder.glob("checkpoint-*.safetensors"):
        if old.name != target.name:
            old.unlink()


def checkpoint_step(folder: Path) -> int | None:
    """Step of the last checkpoint; None where there is none."""
    index = folder / "checkpoint.json"
    return int(json.loads(index.read_text())["step"]) if index.exists() else None


def read_checkpoint(
    folder: Path, device: torch.device
) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and facts, "step" among them, of the last checkpoint; None where there is none."""
    index = folder / "checkpoint.json"
    if not index.exists():
        return None
    facts = json.loads(index.read_text())
    return load_file(folder / facts["file"], device=str(device)), facts


def named(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those of a checkpoint's tensors whose name begins so, without it."""
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}


def write_average(folder: Path, step: int, average: Sequence[Tensor]) -> None:
    """Keep averaged weights, in the order of the policy's parameters, as
    folder/STEP.safetensors.
    """
    with replacing(folder / f"{step}.safetensors") as partial:
        save_file({f"{i}": v.detach().cpu().contiguous() for i, v in enumerate(average)}, partial)


def read_average(folder: Path, step: int, policy: DiffusionPolicy) -> bool:
    """Give a policy the averaged weights of a step; False when they were not kept."""
    path = folder / f"{step}.safetensors"
    if not path.exists():
        return False
    found = load_file(path)
    with torch.no_grad():
        for i, parameter in enumerate(p for p in policy.parameters() if p.requires_grad):
            parameter.copy_(found[f"{i}"])
    policy.eval()
    return True
