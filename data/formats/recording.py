"""What a format tells of a folder of recordings: keys, episodes, rate, tasks. One class per format
reads it; what becomes of its keys is the business of the mapping (`mapping`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np

from alltrades.data.placing import available_memory
from alltrades.errors import MissingExtra, UserError

T = TypeVar("T")
LIMIT = 2**33  # bytes of one episode, array or archive member: what is larger is no recording
LARGE = 2**28  # bytes from which the machine's memory is looked at
OWN = "alltrades"  # the key under which an export says what else its format cannot


class Refusal(UserError):
    """A recording, or an episode of one, that cannot be imported as it is."""


@dataclass(frozen=True)
class Column:
    """What stands under one key of a recording.

    Attributes:
        shape: of one step: () for a number, (D,), (H, W, C) or (C, H, W) of an image.
        dtype: a NumPy name, or "str".
        kind: "numbers", "image" or "text".
        names, units: of the numbers, where the source has them.
    """

    shape: tuple[int, ...]
    dtype: str
    kind: str = "numbers"
    names: tuple[str, ...] | None = None
    units: tuple[str, ...] | None = None

    @cached_property
    def nbytes(self) -> int:
        """Of one step; text has none."""
        if self.kind == "text":
            return 0
        return int(np.prod(self.shape, dtype=object)) * np.dtype(self.dtype).itemsize

    def __str__(self) -> str:
        if self.kind == "text":
            return "text"
        shape = " x ".join(map(str, self.shape)) or "1"
        return f"{self.kind} {shape} {self.dtype}"


@dataclass
class Recording(ABC):
    """Recordings at a path, read one episode at a time. A format is a subclass.

    Attributes:
        columns: by key, in the order in which they are to be fields.
        rate: steps per second; None where the source does not say.
        instruction: the key of a text that says what the episode is of.
        tasks: distinct instructions, where they are known before reading.
        warnings: how the files deviate from what they say of themselves; one line each.
        left_out: key -> why it is not proposed as a field.
        acts: keys that are proposed as actions, where names alone do not tell.
        named: whether texts are called as their fields, which exports of stores say of themselves;
            elsewhere an instruction has whatever name, and becomes the field `task`.
        resampled: episodes are put on a grid of `rate`, which the mapping may change.
        plain: whether any file of numbers is of this format: it counts where no other does.
    """

    path: Path
    columns: dict[str, Column] = field(default_factory=dict)
    rate: float | None = None
    instruction: str | None = None
    tasks: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    acts: list[str] = field(default_factory=list)
    named: bool = False
    plain: ClassVar[bool] = False
    resampled: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def recognises(cls, path: Path) -> bool:
        """Whether this looks like a recording of the format; reads names and little else."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of episodes."""

    @abstractmethod
    def read(self, i: int, keys: Collection[str]) -> dict[str, Any]:
        """Episode i: an array (T, *shape) or one string by key. Some formats give one row more of
        observations than of actions; the last is dropped. Raises `Refusal` for what is damaged.
        """

    def where(self, i: int) -> str:
        """Episode i in messages: its file or group."""
        return f"{self.path}: episode {i}"

    def warn(self, line: str) -> None:
        """Note a deviation, once."""
        if line not in self.warnings:
            self.warnings.append(line)

    def counted(self, where: str, told: Any, found: int, unit: str) -> None:
        """Note a number of things that is not what the files say of themselves; anything else than
        a number says nothing.
        """
        if isinstance(told, int | float | np.number) and told != found:
            self.warn(f"{where}: says {told:g} {unit}; found {found}, which count")

    def choose(self, subset: str) -> None:
        """Keep the episodes that the recording lists under this name."""
        raise Refusal(f"{self.path}: no subsets in this format; expected none; leave it out")

    def close(self) -> None:  # noqa: B027 - formats of files that stay closed need none
        """Close its files."""


def guarded(where: object, read: Callable[..., T], *args: Any) -> T:
    """What `read(*args)` returns; a one-line `Refusal` for whatever a library raises about files
    that are bad.
    """
    try:
        return read(*args)
    except UserError:
        raise
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"{where}: {error.name} is not installed; expected it to read this format", "formats"
        ) from error
    except MemoryError as error:
        raise Refusal(
            f"{where}: does not fit into memory; expected episodes that do; cut it"
        ) from error
    except Exception as error:
        said = " ".join(str(error).split())[:120]
        raise Refusal(
            f"{where}: cannot be read ({type(error).__name__}: {said}); expected a whole file of "
            "this format; restore it from a copy, or leave it out"
        ) from error


def rate_of(where: object, told: Any) -> float | None:
    """The steps per second that a file says of itself; None where it says nothing. Refuses what is
    not a finite number above 0.
    """
    if told is None:
        return None
    if isinstance(told, bool) or not isinstance(told, int | float) or not 0 < told < np.inf:
        raise Refusal(
            f"{where}: {told!r} steps per second; expected a finite number above 0; mend it"
        )
    return float(told)


def bounded(where: object, size: int) -> None:
    """Refuse what would take more than LIMIT bytes, or than this machine has, whatever the file
    claims to hold.
    """
    if size > LIMIT:
        raise Refusal(
            f"{where}: {size / 2**30:,.0f} GiB when unpacked; expected at most "
            f"{LIMIT / 2**30:,.0f}; cut it into episodes"
        )
    if size > LARGE and size > available_memory():
        raise Refusal(
            f"{where}: {size / 2**30:,.1f} GiB when unpacked, and this machine has "
            f"{available_memory() / 2**30:,.1f} left; expected less; cut it into episodes"
        )
