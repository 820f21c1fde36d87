"""Where an environment raised."""

from __future__ import annotations

import inspect
from pathlib import Path
from traceback import extract_tb
from typing import Any


def raised(error: BaseException, env: Any = None) -> str:
    """An error in one line, with the place in the environment's own code that it came through last,
    such as "OSError: no license (envs/arm.py:47)"; of no such code, the place that raised.
    """
    text = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
    frames = extract_tb(error.__traceback__)
    if not frames:
        return text
    own = [frame for frame in frames if Path(frame.filename) in _files(env)]
    last = (own or frames)[-1]
    return f"{text} ({'/'.join(Path(last.filename).parts[-2:])}:{last.lineno})"


def _files(env: Any) -> set[Path]:
    """Files of the classes of an environment and of what it wraps."""
    found: set[Path] = set()
    while env is not None:
        for kind in type(env).__mro__:
            try:
                file = Path(inspect.getfile(kind))
            except (TypeError, OSError):  # built in, or made in a shell
                continue
            if kind.__module__.partition(".")[0] != "gymnasium":
                found.add(file)
        env = env.__dict__.get("env") if hasattr(env, "__dict__") else None
    return found
