"""What `reset` and `step` of a Gymnasium environment return, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

RESET = "an observation and its info, a dict"
STEP = "observation, reward, terminated, truncated, info"


class BrokenContract(Exception):
    """An environment returned what the interface of Gymnasium does not allow; the message is what
    was found and what is expected.
    """


def reset_values(returned: Any) -> tuple[Any, Mapping[str, Any]]:
    """Observation and info of what `reset` returned."""
    if type(returned) is not tuple or len(returned) != 2:
        raise BrokenContract(f"reset returned {_words(returned)}; expected {RESET}")
    observation, info = returned
    if not isinstance(info, Mapping):
        raise BrokenContract(f"reset returned an info that is {_words(info)}; expected a dict")
    return observation, info


def step_values(returned: Any) -> tuple[Any, float, bool, bool, Mapping[str, Any]]:
    """Observation, reward, terminated, truncated and info of what `step` returned."""
    if type(returned) is not tuple or len(returned) != 5:
        old = type(returned) is tuple and len(returned) == 4
        more = " (as the old Gym did)" if old else ""
        raise BrokenContract(f"step returned {_words(returned)}{more}; expected five: {STEP}")
    observation, reward, terminated, truncated, info = returned
    if type(reward) is not float:
        reward = number("reward", reward)
    if terminated is not False:
        terminated = _flag(terminated, "terminated")
    if truncated is not False:
        truncated = _flag(truncated, "truncated")
    if type(info) is not dict and not isinstance(info, Mapping):
        raise BrokenContract(f"step returned an info that is {_words(info)}; expected a dict")
    return observation, reward, terminated, truncated, info


def number(name: str, value: Any) -> float:
    """A real number, or an array of one."""
    array = None if isinstance(value, str) else _array(value)
    if array is None or array.size != 1 or array.dtype.kind not in "biuf":
        raise BrokenContract(f"step returned a {name} that is {_words(value)}; expected a number")
    return float(array.item())


def _flag(value: Any, name: str) -> bool:
    """A boolean, 0 or 1, or an array of one of them."""
    array = None if isinstance(value, str) else _array(value)
    if array is None or array.size != 1 or array.dtype.kind not in "biuf":
        found = None
    else:
        found = array.item()
    if found not in (0, 1):
        raise BrokenContract(
            f"step returned a {name} that is {_words(value)}; expected True or False"
        )
    return bool(found)


def _array(value: Any) -> np.ndarray | None:
    try:
        return np.asarray(value)
    except Exception:  # whatever a foreign type raises when it is asked for its numbers
        return None


def _words(value: Any) -> str:
    """A value in a few words."""
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)[:60]
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} of {value.dtype}"
    return f"a {type(value).__name__}"
