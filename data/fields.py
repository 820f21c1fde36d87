"""Fields of an observation: what each is, by name. NumPy only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

Observation = dict[str, "np.ndarray | str"]  # field -> (*shape,), or the text
Kind = Literal["state", "image", "text"]

NAME = re.compile(r"[A-Za-z0-9_\-]+(\.[A-Za-z0-9_\-]+)*")
CHANNELS = (1, 3, 4)
IMAGE_DTYPES = ("uint8", "uint16", "float32")
STATE_DTYPES = ("float32", "float64")
PREFIX = "observation."
TEXTS = ("instruction", "task")  # the field that instructs, where several are text


def field_name(key: str) -> str:
    """The field that a key of a message or a file means: "observation/images/front",
    "observation.images.front" and "images.front" are one.
    """
    return key.replace("/", ".").removeprefix(PREFIX)


@dataclass(frozen=True)
class Field:
    """One field of an observation. Make one with `state`, `image`, `depth` or `text`.

    Attributes:
        kind: "state", a vector of D numbers; "image", (height, width, channels); "text", one string
            per episode.
        shape: (D,), (H, W, C), or () for text.
        dtype: float32 or float64 for states; uint8, uint16 (depth in mm) or float32 for images;
            "str".
        names, units: of a state's numbers, where they are known: D entries each.
        low, high: bounds of a state's numbers (D,), or of a float image's (one entry); None where
            they are unknown.

    Raises ValueError for what cannot be.
    """

    kind: Kind
    shape: tuple[int, ...] = ()
    dtype: str = "float32"
    names: tuple[str, ...] | None = None
    units: tuple[str, ...] | None = None
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("shape", "names", "units", "low", "high"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, tuple(value))
        fits = {
            "state": len(self.shape) == 1 and self.dtype in STATE_DTYPES,
            "image": len(self.shape) == 3
            and self.shape[2] in CHANNELS
            and self.dtype in IMAGE_DTYPES,
            "text": self.shape == () and self.dtype == "str",
        }
        if not fits.get(self.kind) or min(self.shape, default=1) < 1:
            raise ValueError(
                f"a field of kind {self.kind}, shape {self.shape}, dtype {self.dtype}; expected a "
                "state (D,) of float32 or float64, an image (height, width, 1, 3 or 4) of uint8, "
                "uint16 or float32, or text"
            )
        size = self.shape[0] if self.kind == "state" else 1
        for name in ("names", "units", "low", "high"):
            value = getattr(self, name)
            if value is not None and len(value) != size:
                raise ValueError(f"{len(value)} {name} of a field of {size} numbers")

    @classmethod
    def state(cls, size: int, dtype: str = "float32", **facts: Any) -> Field:
        """A vector of `size` numbers; `facts` are names, units, low, high."""
        return cls("state", (size,), dtype, **facts)

    @classmethod
    def image(cls, height: int, width: int, channels: int = 3, dtype: str = "uint8") -> Field:
        """An image; float32 ones lie in [0, 1] unless bounds say otherwise."""
        bounds: dict[str, Any] = {"low": (0.0,), "high": (1.0,)} if dtype == "float32" else {}
        return cls("image", (height, width, channels), dtype, **bounds)

    @classmethod
    def depth(cls, height: int, width: int) -> Field:
        """A depth image of uint16, in millimetres by convention."""
        return cls("image", (height, width, 1), "uint16")

    @classmethod
    def text(cls) -> Field:
        """One string per episode."""
        return cls("text", (), "str")

    @classmethod
    def of(cls, value: Any) -> Field:
        """The field that an episode's values are: a string, or an array (T, *shape)."""
        if isinstance(value, str):
            return cls.text()
        if value.ndim == 4:
            return cls("image", value.shape[1:], value.dtype.name)
        return cls.state(value.shape[1], float_of(value.dtype).name)

    @property
    def values(self) -> tuple[str, tuple[int, ...], str]:
        """What its values mean: kind, shape and dtype; how precisely a state is kept does not
        count.
        """
        return self.kind, self.shape, "float32" if self.kind == "state" else self.dtype

    def same(self, other: Field) -> bool:
        """Whether both hold the same kind of values (see `values`)."""
        return self.values == other.values

    def __str__(self) -> str:
        shape = " x ".join(map(str, self.shape))
        return {
            "state": f"state of {shape} numbers",
            "image": f"image of {shape} {self.dtype}",
            "text": "text",
        }[self.kind]

    def to_json(self) -> dict[str, Any]:
        """Plain values; JSON has no infinity: null is no bound."""
        out = asdict(self)
        for name in ("low", "high"):
            if out[name] is not None:
                out[name] = [v if np.isfinite(v) else None for v in out[name]]
        return {name: value for name, value in out.items() if value is not None}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Field:
        """From what `to_json` gave; raises TypeError, KeyError or ValueError for anything else."""
        facts = dict(value)
        for name, unbounded in (("low", -np.inf), ("high", np.inf)):
            if facts.get(name) is not None:
                facts[name] = [unbounded if v is None else v for v in facts[name]]
        return cls(**facts)


def float_of(dtype: np.dtype) -> np.dtype:
    """How numbers of a type are kept: as float32, or as float64 where that would lose digits, which
    is of float64 and of integers of 32 bits and more.
    """
    return np.dtype(np.float32 if np.can_cast(dtype, np.float32) else np.float64)


def values_of(name: str, value: Any) -> np.ndarray | str:
    """An episode's values of a field as they are kept: (T, D) of a float (see `float_of`),
    (T, H, W, C) of an image's dtype, or one string.

    Numbers of any other shape (T, ...) become a state, row by row; (T, H, W) of uint8 or uint16 is
    an image of one channel; T equal strings are one.

    Raises ValueError for text that changes within the episode, for what is no array of numbers, and
    for images with channels first.
    """
    if isinstance(value, str):
        return value
    array = np.asarray(value)
    if array.dtype.kind in "UO" and len(array) and all(isinstance(v, str) for v in array.flat):
        different = np.flatnonzero(array.reshape(len(array), -1)[:, 0] != array.flat[0])
        if len(different):
            i = int(different[0])
            raise ValueError(
                f"text '{name}' changes at step {i}: {str(array.flat[0])[:40]!r}, then "
                f"{str(array[i])[:40]!r}; expected one string per episode; cut the episode there"
            )
        return str(array.flat[0])
    if array.dtype.kind not in "biuf" or array.ndim == 0:
        raise ValueError(
            f"field '{name}' is {type(value).__name__} of dtype {array.dtype}; expected an array "
            "(steps, ...) of numbers, or a string"
        )
    if array.dtype.name in ("uint8", "uint16") and array.ndim == 3:
        array = array[..., None]
    if array.dtype.name in IMAGE_DTYPES and array.ndim == 4 and array.shape[3] in CHANNELS:
        return array
    if array.dtype.name in ("uint8", "uint16") and array.ndim > 3:
        raise ValueError(
            f"field '{name}' is {array.dtype} of shape {array.shape}; expected (steps, height, "
            f"width, channels) of {', '.join(map(str, CHANNELS))} channels for images; move the "
            "channels to the end, or give each frame of a stack as a step"
        )
    return array.reshape(len(array), -1).astype(float_of(array.dtype))


def text_field(fields: Mapping[str, Field]) -> str | None:
    """The field that says what an episode's task is; None where there is none, or no telling."""
    texts = [name for name, f in fields.items() if f.kind == "text"]
    for name in TEXTS:
        if name in texts:
            return name
    return texts[0] if len(texts) == 1 else None
