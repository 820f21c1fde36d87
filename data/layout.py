"""Slots and sizes: observations and actions of several environments in arrays of one shape. The
only code that pads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from alltrades.data.fields import Field, Kind
from alltrades.data.interface import Interface
from alltrades.data.text import TEXT_DIM, text_features
from alltrades.errors import UserError, nearest

Window = dict[str, Any]  # slot -> arrays or tensors (B, frames, *shape)


@dataclass(frozen=True)
class Slot:
    """Where a field of one or several environments stands in a window.

    Attributes:
        key: name in windows, the same in every layout: the field's, and for an image also its
            shape, since images of different shapes do not share an array.
        field: the field's name.
        kind, dtype: of its values, a state's float64 where one environment has that; text is
            float32 here (see `text_features`).
        shape: of one frame; a state's is the largest of its environments.
    """

    key: str
    field: str
    kind: Kind
    shape: tuple[int, ...]
    dtype: str

    @property
    def frames(self) -> bool:
        """Whether a window holds a frame for every step; a text has one for all."""
        return self.kind != "text"

    def fit(self, x: Any) -> Any:
        """(..., *own shape) -> (..., *shape): a state padded, or without what is padding of
        another layout.
        """
        return pad(cut(x, self.shape[0]), self.shape[0]) if self.kind == "state" else x


def slot_key(name: str, f: Field) -> str:
    """Key of a field's slot."""
    if f.kind != "image":
        return name
    depth = "" if f.dtype == "uint8" else f"-{f.dtype}"
    return f"{name}@{'x'.join(map(str, f.shape))}{depth}"


class Layout:
    """Where each of K environments stands in arrays padded with zeros to the largest of them.

    A window is a dict of arrays, one per slot: (B, n_obs_steps, *shape), of a text (B, 1,
    TEXT_DIM); slots that an environment lacks are zero. The states of all slots, one after another,
    are the D numbers of `state`.

    Attributes:
        environments: the K interfaces. ids: of the environments, in order.
        slots: by key, in the order in which environments first have them.
        fields: per environment, slot key of each of its fields.
        state_dim: D. slices: of each state slot's numbers among them.
        action_dims: (K,) own sizes. action_dim: padded size A.
    """

    def __init__(self, environments: Sequence[Interface]) -> None:
        self.environments = tuple(environments)
        self.ids = tuple(e.id for e in environments)
        self.action_dims = np.array([e.action_dim for e in environments], dtype=np.int64)
        self.action_dim = int(self.action_dims.max())
        self.fields = [{n: slot_key(n, f) for n, f in e.observation.items()} for e in environments]
        self.slots: dict[str, Slot] = {}
        for environment in environments:
            for name, f in environment.observation.items():
                self._add(name, f, environment.id)
        self.slices: dict[str, slice] = {}
        at = 0
        for slot in self.of_kind("state"):
            self.slices[slot.key] = slice(at, at + slot.shape[0])
            at += slot.shape[0]
        self.state_dim = at

    def _add(self, name: str, f: Field, environment: str) -> None:
        key = slot_key(name, f)
        shape = (TEXT_DIM,) if f.kind == "text" else f.shape
        dtype = "float32" if f.kind == "text" else f.dtype
        there = self.slots.get(key)
        others = {s.kind for s in self.slots.values() if s.field == name} - {f.kind}
        if others:
            raise UserError(
                f"'{name}' is {f} in '{environment}' and {others.pop()} in another environment; "
                "expected one kind of field for one name; rename it"
            )
        if there is not None and f.kind == "state":
            shape = (max(there.shape[0], f.shape[0]),)
            dtype = max(there.dtype, f.dtype)  # float32 < float64
        self.slots[key] = Slot(key, name, f.kind, shape, dtype)

    def of_kind(self, kind: Kind) -> list[Slot]:
        """Slots of one kind, in order."""
        return [slot for slot in self.slots.values() if slot.kind == kind]

    def index(self, environment: str) -> int:
        """Position of an environment. Raises UserError for one that is not among them."""
        if environment not in self.ids:
            raise UserError(
                f"unknown environment '{environment}'; expected one of "
                f"{', '.join(self.ids[:12])}{nearest(environment, list(self.ids))}"
            )
        return self.ids.index(environment)

    # ---- masks -----------------------------------------------------------------------------------
    @property
    def state_mask(self) -> np.ndarray:
        """(K, D) bool: the state numbers that each environment has."""
        out = np.zeros((len(self.ids), self.state_dim), bool)
        for k, environment in enumerate(self.environments):
            for name, f in environment.of_kind("state").items():
                start = self.slices[self.fields[k][name]].start
                out[k, start : start + f.shape[0]] = True
        return out

    @property
    def present(self) -> np.ndarray:
        """(K, slots) bool: the slots that each environment has, in order."""
        return np.array([[key in set(own.values()) for key in self.slots] for own in self.fields])

    @property
    def action_mask(self) -> np.ndarray:
        """(K, A) bool: the action dimensions that each environment has."""
        return np.arange(self.action_dim) < self.action_dims[:, None]

    # ---- windows ---------------------------------------------------------------------------------
    def empty(self, *batch: int, frames: int) -> dict[str, np.ndarray]:
        """A window of zeros, (*batch, frames, *shape) for every slot."""
        return {
            key: np.zeros((*batch, frames if s.frames else 1, *s.shape), s.dtype)
            for key, s in self.slots.items()
        }

    def pack(
        self, environment: int, frames: Mapping[str, np.ndarray | str], count: int
    ) -> dict[str, np.ndarray]:
        """An environment's frames, (count, *shape) of each field and texts as they are, as one
        window (count, *slot shape) per slot.
        """
        out = self.empty(frames=count)
        for name, key in self.fields[environment].items():
            value = frames[name]
            if isinstance(value, str):
                out[key][0] = text_features(value)
            else:
                out[key][...] = self.slots[key].fit(value)
        return out

    def of_window(self, window: Mapping[str, Any]) -> dict[str, Any]:
        """This layout's slots of a window of another one, each in its own size; without those that
        it lacks.
        """
        return {key: slot.fit(window[key]) for key, slot in self.slots.items() if key in window}

    # ---- actions ---------------------------------------------------------------------------------
    def pack_action(self, x: Any) -> Any:
        """(..., a <= A) -> (..., A)."""
        return pad(x, self.action_dim)

    def fit_action(self, x: Any) -> Any:
        """(..., a) -> (..., A): padded, or without what is padding of environments of another
        layout.
        """
        return pad(cut(x, self.action_dim), self.action_dim)

    def action(self, environment: int, x: Any) -> Any:
        """(..., A) -> (..., A_k), a view of environment k's own dimensions."""
        return cut(x, int(self.action_dims[environment]))


def cut(x: Any, width: int) -> Any:
    """An array or tensor (..., d >= width) without the padding behind its own (..., width):
    a view.
    """
    return x[..., :width]


def pad(x: Any, width: int) -> Any:
    """An array or tensor (..., d) with zeros behind its last dimension to (..., width); itself
    where it is that wide.

    Raises ValueError for one that is wider: its last values would be lost.
    """
    missing = width - x.shape[-1]
    if missing < 0:
        raise ValueError(f"{x.shape[-1]} dimensions; expected at most {width}")
    if missing == 0:
        return x
    if isinstance(x, np.ndarray):
        return np.concatenate([x, np.zeros((*x.shape[:-1], missing), x.dtype)], axis=-1)
    import torch

    return torch.nn.functional.pad(x, (0, missing))
