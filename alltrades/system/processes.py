"""Processes, as Linux shows them."""

from __future__ import annotations

import signal
from pathlib import Path


def alive(pid: int) -> bool:
    """False also for one that has ended and waits for its parent to notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def descendants(pid: int) -> list[int]:
    """Its children, theirs, and so on."""
    try:
        tasks = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return []
    children = [int(word) for text in tasks for word in text.split()]
    return children + [below for child in children for below in descendants(child)]


def how_it_ended(code: int | None) -> str:
    """The end of a process in words: the signal that ended it, or its exit code."""
    named = code is not None and -code in {s.value for s in signal.Signals}
    return signal.Signals(-code).name if code and named else f"exit code {code}"
