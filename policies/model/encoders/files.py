"""Files of weights that other projects wrote."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alltrades.errors import UserError
from alltrades.system.tensors import read_tensors

REMEDY = "give the file that its project offers for download (policy.encoder.weights)"


def read_state(path: Path, expected: str, has: str) -> dict[str, Tensor]:
    """Weights by name of a .safetensors file, or of one that torch.save wrote, of which nothing but
    tensors is unpickled. A checkpoint's network is found under "state_dict", "model" or "module.".

    Args:
        expected: what the file should be, for messages.
        has: a name that it must have.

    Raises UserError for anything else.
    """
    found: Any
    if path.suffix == ".safetensors":
        found = read_tensors(path, expected, REMEDY, device="cpu")
    else:
        try:
            found = torch.load(path, map_location="cpu", weights_only=True)
        except OSError as error:
            raise UserError(
                f"{path}: cannot be read ({error.strerror or error}); expected {expected}; {REMEDY}"
            ) from error
        except Exception as error:  # whatever a damaged file makes the library raise
            raise UserError(
                f"{path}: cannot be read ({_said(error)}); expected {expected}; {REMEDY}"
            ) from error
    for key in ("state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if isinstance(found, Mapping):
        found = {str(k).removeprefix("module."): v for k, v in found.items()}
        if has in found and all(isinstance(v, Tensor) for v in found.values()):
            return found
        names = ", ".join(list(found)[:3])
    else:
        names = type(found).__name__
    raise UserError(
        f"{path}: holds {names or 'nothing'}; expected {expected}, with '{has}'; {REMEDY}"
    )


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:100]
