"""Where somebody else's code went wrong."""

from __future__ import annotations

import traceback
from pathlib import Path


def blame(error: BaseException, folder: Path | None = None) -> str:
    """What was raised and where, in one line: "NameError: name 'x' is not defined (my_env.py, line
    3)".

    The place is the innermost one below `folder`, or, where there is none, the innermost outside of
    Python's own import machinery.
    """
    said = " ".join(str(error).split())
    if isinstance(error, SyntaxError) and error.filename:
        where, line = error.filename, error.lineno
        said = error.msg
    else:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename[:1] != "<"]
        below = [f for f in frames if folder is not None and folder in Path(f.filename).parents]
        frame = (below or frames)[-1] if below or frames else None
        where, line = (frame.filename, frame.lineno) if frame is not None else ("", None)
    what = f"{type(error).__name__}: {said}" if said else type(error).__name__
    return f"{what} ({where}, line {line})" if where else what
