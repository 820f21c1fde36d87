"""What a host is doing, in four numbers that another process can read while it hangs or after it
died.
"""

from __future__ import annotations

import ctypes
from collections.abc import MutableSequence
from multiprocessing import get_context
from typing import Any

Marks = MutableSequence[int]
PHASE, BEAT, LANE, STEPS = range(4)  # places; STEPS: control steps of the lane's episode before
IDLE, LOADING, BUILDING, RESETTING, STEPPING, ASKING, CLOSING = range(7)  # phases
ACTIVE = (BUILDING, RESETTING, STEPPING, ASKING)  # what is done for the episode of a lane
SLOW, ALLOWANCE = (LOADING, BUILDING), 10  # phases that may take ten times as long
DOING = {
    LOADING: "its process",
    BUILDING: "building it",
    RESETTING: "its reset",
    STEPPING: "its step",
    ASKING: "its expert",
    CLOSING: "closing it",
}  # what gives no answer, in words


def local_marks() -> Marks:
    """Marks that nobody else reads."""
    return [IDLE, 0, 0, 0]


def shared_marks() -> Any:
    """Marks to give to a new process, which is loading."""
    marks = get_context("spawn").RawArray(ctypes.c_longlong, 4)
    marks[PHASE] = LOADING
    return marks
