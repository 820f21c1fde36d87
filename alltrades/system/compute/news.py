"""What tasks in other processes tell of themselves: how far they are, what they measure and say,
and what they raised.
"""

from __future__ import annotations

import pickle
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from alltrades.system.compute.executor import Ears, Here, Kept
from alltrades.system.reporting import Report

PROGRESS, RECORD, LINE, TOLD = range(4)  # kinds of news
SHOWN = 0.25  # seconds between two words on how far a task is


def telling(post: Callable[[int, Any], Any], kept: Kept) -> Here:
    """What a task finds in a process where `post(kind, value)` sends its news."""
    shown = 0.0

    def progress(done: int, total: int) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown >= SHOWN or done >= total:
            shown = now
            post(PROGRESS, (done, total))

    return Here(
        kept,
        Report(progress, lambda *record: post(RECORD, record)),
        lambda line: post(LINE, line),
        lambda value: post(TOLD, value),
    )


def heard(ears: Ears, number: int, logged: dict[str, int], kind: int, value: Any) -> None:
    """Give news of the task of a number to who hears of it.

    Args:
        logged: last step of each record, which grows: another try of a task repeats some.
    """
    report = ears.reports(number)
    if kind == LINE:
        ears.say(value)
    elif kind == TOLD:
        ears.hear(value)
    elif kind == PROGRESS:
        report.progress(*value)
    else:
        name, step, values = value
        if step > logged.get(name, -1):
            logged[name] = step
            report.record(name or report.name, step, values)


def caught(
    call: Callable[[], Any], *passing: type[BaseException]
) -> tuple[BaseException, str] | None:
    """What a call raised, as far as it can be sent, and its traceback in words; but for exceptions
    that are `passing`.
    """
    try:
        call()
    except passing:
        raise
    except BaseException as error:
        said = traceback.format_exc()
        error.__cause__ = error.__context__ = error.__traceback__ = None
        return _sendable(error), said
    return None


def _sendable(error: BaseException) -> BaseException:
    """An exception that ends no more than a task, and can be sent."""
    with suppress(Exception):
        if isinstance(error, Exception):
            pickle.loads(pickle.dumps(error))
            return error
    kind = type(error).__name__
    try:
        return RuntimeError(f"{kind}: {error}")
    except Exception:  # it cannot even be said
        return RuntimeError(kind)


def told(error: BaseException, said: str) -> BaseException:
    """What another process raised, with its traceback as a note."""
    error.add_note(said)
    return error
