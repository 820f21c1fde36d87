"""The one interface through which independent work is done, and how it is done here.

A task is a function of a module, called as `function(here, shared, item)`: a pure function of
`shared` and `item`, so that it does not matter where it is carried out, nor how often.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from alltrades.errors import UserError
from alltrades.system.reporting import Report

T = TypeVar("T")
Function = Callable[["Here", Any, Any], Any]


class Unsent(UserError):
    """A task that cannot be sent to another process."""


def unsent(error: Exception) -> Unsent:
    """What is raised where it cannot be pickled, or not be made of what was."""
    return Unsent(
        f"work cannot be sent to another process ({type(error).__name__}: {error}); expected "
        "functions and classes at the top of a module, and values that pickle; move them there"
    )


def say_on_stderr(line: str) -> None:
    """Where tasks say things by default."""
    print(line, file=sys.stderr)


def _nobody(_: Any) -> None: ...


def _nothing() -> None: ...


def _unreported(_: int) -> Report:
    return Report()


@dataclass(frozen=True)
class Ears:
    """Who hears of tasks while they run.

    Attributes:
        reports: of the task of a number, counted from 0.
        say: gets lines for the user.
        hear: gets what tasks `tell`, as often as they are carried out.
    """

    reports: Callable[[int], Report] = _unreported
    say: Callable[[str], None] = say_on_stderr
    hear: Callable[[Any], None] = _nobody


class Kept:
    """Things that one task leaves to the next in the same process, such as running environments."""

    def __init__(self) -> None:
        self._things: dict[str, OrderedDict[Any, Any]] = {}

    def get(self, kind: str, key: Any, make: Callable[[], T], most: int = 1) -> T:
        """What is kept of a kind under a key, made where it is not there; of each kind the `most`
        that were used last stay.
        """
        mine = self._things.setdefault(kind, OrderedDict())
        if key not in mine:
            while len(mine) >= most:
                _close(mine.popitem(last=False)[1])
            mine[key] = make()
        mine.move_to_end(key)
        found: T = mine[key]
        return found

    def close(self) -> None:
        """Close all that can be closed."""
        for of_kind in self._things.values():
            for thing in of_kind.values():
                _close(thing)
        self._things.clear()


def _close(thing: Any) -> None:
    if hasattr(thing, "close"):
        with suppress(Exception):  # of what nobody needs any more
            thing.close()


@dataclass(frozen=True)
class Here:
    """What a task finds where it is carried out.

    Attributes:
        kept: what earlier tasks left.
        report: where it says how far it is and what it measures.
        say: shows the user a line.
        tell: gives the caller something on the way, which may be told again by another try.
    """

    kept: Kept
    report: Report = field(default_factory=Report)
    say: Callable[[str], None] = say_on_stderr
    tell: Callable[[Any], None] = _nobody


class Executor(ABC):
    """Carries out tasks.

    Attributes:
        slots: tasks at the same time.
        ranks: processes of one training, where it is done by several (see `together`).
        remote: whether tasks are carried out by other processes than this one, which are sent
            functions, what they share, and items.
        near: whether these are processes of this machine.
        check: called now and then while tasks are carried out elsewhere; what it raises ends those
            of its thread.
    """

    slots: int = 1
    ranks: int = 1
    remote: bool = False
    near: bool = False
    check: Callable[[], None] = staticmethod(_nothing)

    @abstractmethod
    def map(
        self, function: Function, items: Iterable[Any], shared: Any = None, ears: Ears | None = None
    ) -> Generator[Any, None, None]:
        """What the tasks return, in the order of the items, which are taken from an iterable as
        there is room.

        The first exception of a task, in that order, is raised; the others are given up then, as
        they are when the generator is closed.
        """

    def call(
        self, function: Function, item: Any, shared: Any = None, ears: Ears | None = None
    ) -> Any:
        """What one task returns."""
        (found,) = self.map(function, [item], shared, ears)
        return found

    def together(self, function: Function, item: Any, ears: Ears | None = None) -> Any:
        """What `function(here, None, item)` returns in the first of `ranks` processes that meet
        through torch.distributed; the others take part in what it asks them for.
        """
        raise NotImplementedError

    @abstractmethod
    def close(self) -> None:
        """End what was started."""

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Local(Executor):
    """One task after another, by the caller: rollouts and small trainings have processes of their
    own, other trainings threads.
    """

    def __init__(self) -> None:
        self._kept = Kept()

    def map(
        self, function: Function, items: Iterable[Any], shared: Any = None, ears: Ears | None = None
    ) -> Generator[Any, None, None]:
        ears = ears or Ears()
        for number, item in enumerate(items):
            here = Here(self._kept, ears.reports(number), ears.say, ears.hear)
            yield function(here, shared, item)

    def close(self) -> None:
        self._kept.close()
