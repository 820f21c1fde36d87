"""Files of a training: checkpoints from which it goes on, and averaged weights that another one may
end with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from alltrades.errors import UserError
from alltrades.policies.model.policy import DiffusionPolicy
from alltrades.system.compute.executor import Executor
from alltrades.system.files import file_digest, replacing
from alltrades.system.reading import read_mapping, write_sealed
from alltrades.system.tensors import read_tensors

INDEX = "checkpoint.json"
EXPECTED = "what a training of this version wrote"
REMEDY = "delete its folder, and the training begins again"


def nothing() -> None:
    """Nobody to wait for."""


def _unheard(folder: Path, names: Sequence[str]) -> None: ...


@dataclass(frozen=True)
class Place:
    """Where a training keeps its files; nowhere by default.

    Attributes:
        work: folder of checkpoints; an interrupted training goes on from the last one.
        averages: folder of the averaged weights at the looks of a training (see `look_steps`): kept
            by one that goes to its last step, looked for by one that stops at one of them.
        selected: called before averages are looked for, such as to wait for who keeps them.
        executor: where a training is carried out; default here.
        wrote: called with a folder and the names of files that were written there, in the order in
            which they belong.
    """

    work: Path | None = None
    averages: Path | None = None
    selected: Callable[[], object] = nothing
    executor: Executor | None = None
    wrote: Callable[[Path, Sequence[str]], object] = _unheard

    @property
    def elsewhere(self) -> Executor | None:
        """The executor where it is a remote one."""
        return self.executor if self.executor is not None and self.executor.remote else None

    def within(self, name: str) -> Place:
        """A folder of checkpoints in this one."""
        return replace(self, work=None if self.work is None else self.work / name)


def write_checkpoint(
    folder: Path, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]
) -> list[str]:
    """Write checkpoint-STEP.safetensors, then checkpoint.json, which names it and holds `facts`;
    older ones go. Returns the names.
    """
    target = folder / f"checkpoint-{step}.safetensors"
    with replacing(target) as partial:
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, partial)
    index = {"step": step, "file": target.name, "sha256": file_digest(target), **facts}
    write_sealed(folder / INDEX, index)
    remove_older(folder)
    return [target.name, INDEX]


def remove_older(folder: Path) -> None:
    """Only the checkpoint that checkpoint.json names stays."""
    facts = _index(folder)
    for old in folder.glob("checkpoint-*.safetensors"):
        if facts is not None and old.name != facts["file"]:
            old.unlink()


def checkpoint_step(folder: Path) -> int | None:
    """Step of the last checkpoint; None where there is none."""
    facts = _index(folder)
    return None if facts is None else facts["step"]


def read_checkpoint(
    folder: Path, device: torch.device
) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and facts, "step" among them, of the last checkpoint; None where there is none.

    Raises UserError, in one line, for one that was damaged.
    """
    facts = _index(folder)
    if facts is None:
        return None
    path, digest = folder / facts["file"], facts["sha256"]
    return read_tensors(path, EXPECTED, REMEDY, digest=digest, device=str(device)), facts


def _index(folder: Path) -> dict[str, Any] | None:
    """What checkpoint.json says; None where there is no checkpoint."""
    if not (folder / INDEX).exists():
        return None
    facts = read_mapping(folder / INDEX, EXPECTED, REMEDY)
    kinds = {"step": int, "file": str, "sha256": str}
    if not all(type(facts.get(key)) is kind for key, kind in kinds.items()):
        raise UserError(
            f"{folder / INDEX}: names no step and no file with its digest; expected {EXPECTED}; "
            f"{REMEDY}"
        )
    return facts


def named(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those of a checkpoint's tensors whose name begins so, without it."""
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}


def write_average(folder: Path, step: int, average: Sequence[Tensor]) -> list[str]:
    """Keep averaged weights, in the order of the policy's parameters, as
    folder/STEP.safetensors. Returns the names of what was written.
    """
    path = folder / f"{step}.safetensors"
    with replacing(path) as partial:
        save_file({f"{i}": v.detach().cpu().contiguous() for i, v in enumerate(average)}, partial)
        write_sealed(path.with_suffix(".json"), {"sha256": file_digest(partial)})
    return [path.with_suffix(".json").name, path.name]


def read_average(folder: Path, step: int, policy: DiffusionPolicy) -> bool:
    """Give a policy the averaged weights of a step; False when they were not kept."""
    path = folder / f"{step}.safetensors"
    if not path.exists():
        return False
    remedy = "delete it, and the weights are kept again"
    kept = read_mapping(path.with_suffix(".json"), EXPECTED, remedy)
    found = read_tensors(path, EXPECTED, remedy, digest=kept.get("sha256"), device="cpu")
    with torch.no_grad():
        for i, parameter in enumerate(p for p in policy.parameters() if p.requires_grad):
            parameter.copy_(found[f"{i}"])
    policy.eval()
    return True
