"""Arrays in safetensors files, read with one exception for whatever a damaged one makes the library
raise. Nothing is taken into memory that the file does not hold.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alltrades.errors import UserError
from alltrades.system.files import file_digest


def read_tensors(
    path: Path,
    expected: str,
    remedy: str,
    *,
    digest: str | None = None,
    device: str | None = None,
) -> dict[str, Any]:
    """Arrays by name: torch's on `device`, NumPy's without one.

    Args:
        expected, remedy: what should stand there and what to do, for the message.
        digest: sha256 of the file (`file_digest`) where it is known. O(bytes).

    Raises UserError, in one line, for a file that is not there, cannot be read, or is another one.
    """
    from safetensors import SafetensorError

    try:
        if digest is not None and file_digest(path) != digest:
            raise ValueError("it was changed after it was written: its digest differs")
        if device is None:
            from safetensors.numpy import load_file

            return load_file(path)
        from safetensors.torch import load_file as load_torch

        return load_torch(path, device=device)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        said = " ".join(str(getattr(error, "strerror", None) or error).split())[:160]
        raise UserError(
            f"{path}: cannot be read ({said}); expected {expected}; {remedy}"
        ) from error
