"""Between Gymnasium's spaces and fields: what an environment's spaces say of its observations and
actions, and its own values as fields and back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from gymnasium import spaces

from alltrades.data.actions import ActionSpec
from alltrades.data.fields import CHANNELS, NAME, Field, Observation, field_name, float_of
from alltrades.data.interface import Interface
from alltrades.errors import UserError, nearest

INFINITE = 1e30  # bounds beyond it are none: many environments declare the largest float32
PICTURE = 8  # smallest side from which on floats (H, W, C) may be meant as an image
ROOT = {"state": "state", "image": "image", "text": "instruction"}  # of what is no Dict
INTEGERS = (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
WRAP = "wrap the environment and register the wrapper"


# ---- what the spaces say -------------------------------------------------------------------------
def fields_of(
    space: spaces.Space[Any], where: str, given: Mapping[str, Field] | None = None
) -> dict[str, Field]:
    """Fields of an observation space, in its order; `where` names the environment in errors.

    A Box of uint8 (H, W, C) or (H, W) is an image, one of uint16 a depth image, any other Box a
    state, raveled, of float64 where float32 would lose digits of its type (see `float_of`);
    integers (Discrete, MultiDiscrete, MultiBinary) are a state of float32; Text is text. Dicts
    name their fields, nested ones with dots between; one space alone is called "state", "image" or
    "instruction". Fields that are `given` replace those of their names, or the only one.

    Raises UserError for other spaces, for names that are no names of fields, and for given fields
    that are not there or of another size or type.
    """
    given = given or {}
    if not isinstance(space, spaces.Dict):
        return _only(space, f"{where}: observation", given)
    out: dict[str, Field] = {}
    for name, part in leaves(space):
        if not NAME.fullmatch(name) or name in out:
            raise UserError(
                f"{where}: observation '{name}' {'twice' if name in out else 'as a name'}; "
                "expected names of letters, digits, _ and -, each once (slashes are dots); " + WRAP
            )
        out[name] = _field(part, f"{where}: observation '{name}'", given.get(name))
    unknown = [name for name in given if name not in out]
    if unknown:
        raise UserError(
            f"{where}: a field '{unknown[0]}' is given, and its observation space has none"
            f"{nearest(unknown[0], list(out))}; expected some of {', '.join(out)}"
        )
    return out


def action_of(space: spaces.Space[Any], given: ActionSpec | None, where: str) -> ActionSpec:
    """Limits of an action space, raveled: its own, or the given ones.

    Raises UserError for spaces without finite bounds and for integers where none are given, for
    given ones of another size or beyond what integers there are, and for other spaces.
    """
    if not isinstance(space, (spaces.Box, *INTEGERS)):
        raise UserError(
            f"{where} has actions {_name(space)}; expected a Box of numbers, since a diffusion "
            f"policy acts in continuous spaces; {WRAP}"
        )
    low, high = bounds(space)
    whole = integers(space)
    if given is None:
        if whole or not np.isfinite([low, high]).all():
            kind = f"integer actions ({_name(space)})" if whole else "unbounded actions"
            raise UserError(
                f"{where} has {kind}; expected numbers with finite bounds; register it with "
                f"action=ActionSpec(low, high), {len(low)} number{'s' * (len(low) > 1)} each"
                + (", which are rounded" if whole else "")
            )
        return ActionSpec(low.tolist(), high.tolist())
    if given.size != len(low) or not given.bounded:
        size = f"{given.size} numbers" if given.bounded else "no bounds"
        raise UserError(
            f"{where}: its action was given {size}; expected low and high of {len(low)} numbers, "
            f"as its space {_name(space)}"
        )
    if whole and ((given.box[0] < low).any() or (given.box[1] > high).any()):
        raise UserError(
            f"{where}: its action was given the box {list(given.low or ())} to "
            f"{list(given.high or ())}; expected one inside {low.tolist()} to {high.tolist()}, as "
            f"its space {_name(space)}"
        )
    return given


def bounds(space: Any) -> tuple[np.ndarray, np.ndarray]:
    """(D,) float64 low and high of a Box or of integers, raveled; infinite where there are none.

    Raises ValueError where one is no number, or a low is above its high.
    """
    if isinstance(space, spaces.Discrete):
        low = np.array([space.start])
        high = low + space.n - 1
    elif isinstance(space, spaces.MultiDiscrete):
        low = np.ravel(space.start)
        high = low + np.ravel(space.nvec) - 1
    elif isinstance(space, spaces.MultiBinary):
        low, high = np.zeros(int(np.prod(space.shape))), np.ones(int(np.prod(space.shape)))
    else:
        low, high = np.ravel(space.low), np.ravel(space.high)
    low, high = low.astype(np.float64), high.astype(np.float64)
    wrong = np.flatnonzero(~(low <= high))
    if len(wrong):
        i = int(wrong[0])
        raise ValueError(
            f"the bounds of {_name(space)} are {low[i]:g} to {high[i]:g} at entry {i}; expected "
            "low <= high"
        )
    return np.where(low < -INFINITE, -np.inf, low), np.where(high > INFINITE, np.inf, high)


def _only(space: Any, where: str, given: Mapping[str, Field]) -> dict[str, Field]:
    """The one field of a space that is no Dict."""
    if len(given) > 1:
        raise UserError(f"{where} is {_name(space)}, one field; {len(given)} are given")
    for name, f in given.items():
        return {name: _field(space, where, f)}
    found = _field(space, where)
    return {ROOT[found.kind]: found}


def _field(space: Any, where: str, given: Field | None = None) -> Field:
    if given is not None:
        return _given(space, given, where)
    if isinstance(space, spaces.Text):
        return Field.text()
    if isinstance(space, spaces.Box):
        shape, dtype = space.shape, space.dtype.name
        if dtype in ("uint8", "uint16") and len(shape) > 1:
            return _image(shape, dtype, where)
        floats = space.dtype.kind == "f" and len(shape) == 3 and min(shape[:2]) >= PICTURE
        if floats and shape[2] in CHANNELS:
            raise UserError(
                f"{where} is {_name(space)}, an image or {np.prod(shape)} numbers; expected images "
                "as uint8; register it with observation={name: Field.image(...)} or "
                "Field.state(...)"
            )
    elif not isinstance(space, INTEGERS):
        raise UserError(
            f"{where} is {_name(space)}; expected Box, Discrete, MultiDiscrete, MultiBinary, Text, "
            f"or a Dict of them; {WRAP}"
        )
    low, high = bounds(space)
    if len(low) == 0 or (isinstance(space, spaces.Box) and space.dtype.kind not in "biuf"):
        raise UserError(f"{where} is {_name(space)}; expected at least one number; {WRAP}")
    return _given(space, Field.state(len(low)), where)


def _given(space: Any, f: Field, where: str) -> Field:
    """A declared field in place of the derived one; bounds that it lacks, and how a state is kept,
    are the space's.
    """
    shape = getattr(space, "shape", None) or ()
    numbers = isinstance(space, (spaces.Box, *INTEGERS))
    fits = {
        "text": isinstance(space, spaces.Text),
        "state": numbers and int(np.prod(shape)) == int(np.prod(f.shape)),
        "image": isinstance(space, spaces.Box)
        and f.shape in (shape, (*shape, 1))
        and (f.dtype == space.dtype.name or (f.dtype == "float32" and space.dtype.kind == "f")),
    }
    if not fits[f.kind]:
        raise UserError(
            f"{where} is given as {f}; its space is {_name(space)}; expected the same size and type"
        )
    if f.kind != "state":
        return f
    low, high = (None if np.isinf(b).all() else tuple(b.tolist()) for b in bounds(space))
    kept = float_of(space.dtype).name if isinstance(space, spaces.Box) else f.dtype
    return replace(f, dtype=kept, low=f.low or low, high=f.high or high)


def _image(shape: tuple[int, ...], dtype: str, where: str) -> Field:
    if len(shape) == 2:
        shape = (*shape, 1)
    if len(shape) == 3 and shape[2] in CHANNELS:
        return Field("image", shape, dtype)
    first = len(shape) == 3 and shape[0] in CHANNELS
    raise UserError(
        f"{where} has shape {shape} of {dtype}{', channels first' if first else ''}; expected an "
        f"image (height, width, 1, 3 or 4 channels); {'transpose it: ' if first else ''}{WRAP}"
    )


def integers(space: Any) -> bool:
    """Whether a space's values are integers; false of what is no space of numbers."""
    return isinstance(space, INTEGERS) or (
        isinstance(space, spaces.Box) and space.dtype.kind in "biu"
    )


def _name(space: Any) -> str:
    """A space in a few words."""
    kind = type(space).__name__
    if isinstance(space, spaces.Box):
        return f"Box of shape {space.shape} of {space.dtype}"
    return f"{kind}({space.n})" if isinstance(space, spaces.Discrete) else kind


# ---- values --------------------------------------------------------------------------------------
def read(returned: Any, interface: Interface) -> Observation:
    """What an environment returned -> its fields, checked, as copies.

    Nested dicts are joined by dots; numbers of any type and shape are raveled into a state; what
    is no field of the environment is left out.

    Raises UserError for a field that is missing or of another type or shape, and `NotFinite`.
    """
    fields = interface.observation
    if isinstance(returned, Mapping):
        named = dict(leaves(returned))
    elif len(fields) == 1:
        named = dict.fromkeys(fields, returned)
    else:
        return interface.check(returned)  # says what it expected
    for name, f in fields.items():
        if name in named and f.kind == "state":
            named[name] = np.ravel(named[name])
        elif name in named and f.kind == "text":
            named[name] = _text(named[name])
    return interface.check(named)


@dataclass(frozen=True)
class Plain:
    """The only field of an interface, a state: its values need no `read` where an array has its
    shape and type, and is finite.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def plain_state(interface: Interface) -> Plain | None:
    """None for an interface of several fields, or of one that is no state."""
    if len(interface.observation) != 1:
        return None
    ((name, f),) = interface.observation.items()
    return Plain(name, f.shape, np.dtype(f.dtype)) if f.kind == "state" else None


def leaves(tree: Mapping[Any, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Names and values of nested dicts, in order: {"images": {"front": x}} has "images.front"."""
    out: list[tuple[str, Any]] = []
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            out += leaves(value, f"{name}.")
        else:
            out.append((field_name(name), value))
    return out


def writer(space: Any, size: int) -> Callable[[np.ndarray], Any] | None:
    """From an action (size,) float32 to a value of a space: of its shape and type, rounded for
    integers. None where it is one already.
    """
    if isinstance(space, spaces.Discrete):
        return lambda action: int(np.rint(action[0]))
    shape, dtype = getattr(space, "shape", None), getattr(space, "dtype", None)
    if shape is None or dtype is None or int(np.prod(shape)) != size:
        return None
    if shape == (size,) and dtype == np.float32:
        return None
    if dtype.kind == "f":
        return lambda action: action.astype(dtype).reshape(shape)
    return lambda action: np.rint(action).astype(dtype).reshape(shape)


def _text(value: Any) -> Any:
    """A string of any of NumPy's types as Python's."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    return str(value) if isinstance(value, str) else value
