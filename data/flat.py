"""Stores that alltrades reads and does not write: format 1, and foreign stores of the layout that
Diffusion Policy made common. All environments stand in the same arrays, padded to the widest.

    data/<field> (S, ...)  meta/episode_ends (E,)  and in format 1 meta/<column> (E,), commit.json
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from alltrades.data.actions import ActionSpec
from alltrades.data.contents import Contents, Part
from alltrades.data.episode import UNKNOWN
from alltrades.data.fields import Field
from alltrades.data.finite import fault, finite
from alltrades.data.interface import Interface
from alltrades.errors import UserError

T = TypeVar("T")
COLUMNS = {
    "source": "int32",
    "seed": "uint64",
    "success": "bool",
    "first_success": "int64",
    "return": "float64",
    "observation_dim": "int32",
    "action_dim": "int32",
    "has_actions": "bool",
}
FIELDS = {"state": "observation", "action": "action", "reward": "reward", "success": "success"}


class FlatArray:
    """One Zarr array of which the first `rows` count.

    A chunk that is not there holds Zarr's fill value: such stores leave out what is zero. Raises
    UserError from every reading method for damaged chunks and for numbers that are not finite.
    """

    def __init__(self, path: Path, array: Any, rows: int) -> None:
        self.path, self._array, self.rows = path, array, rows
        self.row_shape, self.dtype = tuple(array.shape[1:]), np.dtype(array.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.rows, *self.row_shape)

    def read(self, start: int, stop: int) -> np.ndarray:
        """(stop - start, *row_shape)"""
        return self._checked(guarded(self.path, lambda: np.asarray(self._array[start:stop])))

    def take(self, index: np.ndarray) -> np.ndarray:
        """Rows (n, *row_shape) of an index (n,)."""
        return self._checked(guarded(self.path, lambda: np.asarray(self._array.oindex[index])))

    def _checked(self, value: np.ndarray) -> np.ndarray:
        if value.dtype.kind == "f" and not (good := finite(value)).all():
            number = value[tuple(np.argwhere(~good)[0])]
            raise UserError(
                f"{self.path}: holds a number that {fault(number)}; expected finite ones; restore "
                "the store from a copy, or leave those episodes out"
            )
        return value


class States:
    """The first `width` numbers of each row of an array, as float32."""

    def __init__(self, array: FlatArray, width: int) -> None:
        self.array, self.shape, self.dtype = array, (array.rows, width), np.dtype(np.float32)

    def read(self, start: int, stop: int) -> np.ndarray:
        return self._cut(self.array.read(start, stop))

    def take(self, index: np.ndarray) -> np.ndarray:
        return self._cut(self.array.take(index))

    def _cut(self, x: np.ndarray) -> np.ndarray:
        return x.reshape(len(x), -1)[:, : self.shape[1]].astype(np.float32, copy=False)


class FlatStore:
    """The arrays of such a store, described as `EpisodeStore` needs them.

    Args:
        commit: of format 1; None for a foreign store.

    Raises UserError for what is no store, and where its parts disagree.
    """

    def __init__(self, path: Path, commit: dict[str, Any] | None) -> None:
        import zarr

        self.path, self.commit = path, commit
        self.group = guarded(path, lambda: zarr.open_group(str(path), mode="r"))
        data: Any = guarded(path, lambda: self.group["data"])
        self.names = sorted(guarded(path, lambda: list(data.array_keys())))
        ends = self._array("meta/episode_ends")
        try:
            count = ends.shape[0] if commit is None else int(commit["episodes"])
            self.ends = self._whole("meta/episode_ends", count).astype(np.int64)
            steps = int(self.ends[-1]) if count else 0
            if self.ends.ndim != 1 or (np.diff(self.ends, prepend=0) <= 0).any():
                raise ValueError("meta/episode_ends does not increase")
            if commit is not None and steps != int(commit["steps"]):
                raise ValueError(f"its episodes end at step {steps}, not {commit['steps']}")
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}: its parts disagree ({error}); expected a whole store; restore it from a "
                "copy"
            ) from error
        self.steps = steps

    def contents(self) -> tuple[Contents, dict[str, Interface]]:
        """Its episodes, whose observation is the field `state`, and their environments."""
        c, arrays = self.columns(), self.arrays()
        sizes = {name: c.pop(f"{name}_dim") for name in ("observation", "action")}
        ids, part = np.unique(c["environment"], return_inverse=True)
        length, parts, interfaces = np.diff(self.ends, prepend=0), [], {}
        place = np.zeros(len(length), np.int64)
        for k, environment in enumerate(map(str, ids)):
            mine = np.flatnonzero(part == k)
            place[mine] = np.arange(len(mine))
            acted = mine[c["has_actions"][mine]]
            width, actions = (
                self._size(environment, sizes[name][some])
                for name, some in (("observation", mine), ("action", acted))
            )
            fields = {}
            if width and "state" in arrays:
                fields["state"] = States(arrays["state"], width)
                interfaces[environment] = Interface(
                    environment, {"state": Field.state(width)}, ActionSpec.unknown(actions)
                )
            action = States(arrays["action"], actions) if actions else None
            parts.append(Part(fields, {}, action, arrays.get("reward"), arrays.get("success")))
        contents = Contents(self.path, parts, part, place, self.ends - length, length, c)
        return contents, interfaces

    def _size(self, environment: str, sizes: np.ndarray) -> int:
        found = np.unique(sizes).tolist()
        if len(found) > 1:
            raise UserError(
                f"{self.path}: episodes of '{environment}' have {found[0]} and {found[1]} numbers; "
                "expected as many in each; restore the store from a copy"
            )
        return int(found[0]) if found else 0

    def arrays(self) -> dict[str, FlatArray]:
        """Arrays of steps by our names."""
        named = {k: v for k, v in FIELDS.items() if v in self.names}
        if self.commit is None and "state" in self.names:
            named["state"] = "state"
        return {k: self.array(f"data/{v}", self.steps) for k, v in named.items()}

    def array(self, name: str, rows: int) -> FlatArray:
        """An array of which `rows` rows must be there."""
        found = self._array(name)
        if not found.shape or found.shape[0] < rows:
            raise UserError(
                f"{self.path / name}: shape {found.shape}; expected {rows} rows; restore the store "
                "from a copy"
            )
        return FlatArray(self.path / name, found, rows)

    def columns(self) -> dict[str, np.ndarray]:
        """Per-episode columns (E,), environment and source as strings; for a foreign store
        defaults, and its folder's name as the environment.
        """
        count = len(self.ends)
        if self.commit is None:
            fills: dict[str, Any] = {
                "first_success": UNKNOWN,
                "has_actions": "action" in self.names,
            }
            out = {k: np.full(count, fills.get(k, 0), dtype=kind) for k, kind in COLUMNS.items()}
            for name, array in self.arrays().items():
                if name in ("state", "action"):
                    out["observation_dim" if name == "state" else "action_dim"][:] = int(
                        np.prod(array.row_shape)
                    )
            name = self.path.resolve().name.removesuffix(".zarr")
            out |= {"environment": np.full(count, name), "source": np.full(count, "demo")}
            return out
        out = {k: self._whole(f"meta/{k}", count).astype(kind) for k, kind in COLUMNS.items()}
        for k, names in (("environment", "environments"), ("source", "sources")):
            codes, known = self._whole(f"meta/{k}", count), self.commit.get(names)
            if not isinstance(known, list) or (count and not _within(codes, len(known))):
                raise UserError(
                    f"{self.path}: meta/{k} has codes without a name; expected those in the "
                    "commit; restore the store from a copy"
                )
            out[k] = np.array(known, dtype=str)[codes] if count else np.array([], dtype=str)
        for k, field in (("observation_dim", "observation"), ("action_dim", "action")):
            width = self._array(f"data/{field}").shape[-1]
            if count and not _within(out[k], width + 1):
                raise UserError(
                    f"{self.path}: meta/{k} exceeds the {width} columns of data/{field}; expected "
                    "sizes that agree; restore the store from a copy"
                )
        return out

    def _array(self, name: str) -> Any:
        found = guarded(self.path, lambda: self.group[name])
        if not hasattr(found, "chunks"):
            raise UserError(f"{self.path / name}: no array; expected one; restore it from a copy")
        return found

    def _whole(self, name: str, rows: int) -> np.ndarray:
        return self.array(name, rows).read(0, rows)


def guarded(path: Path, read: Callable[[], T]) -> T:
    """What `read` returns; UserError for whatever Zarr and its codecs raise about damaged files."""
    try:
        return read()
    except UserError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:120]
        raise UserError(
            f"{path}: cannot be read as a store ({type(error).__name__}: {said}); expected Zarr "
            "with data/ arrays and meta/episode_ends, whole; restore it from a copy"
        ) from error


def _within(values: np.ndarray, limit: int) -> bool:
    return bool(((values >= 0) & (values < limit)).all())
