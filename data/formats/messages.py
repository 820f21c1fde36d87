"""Messages of robots as arrays: numbers by the names of their members, pictures, texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from alltrades.data.formats.pictures import PIXELS, decode
from alltrades.data.formats.recording import Refusal

PIXEL_FORMATS = {
    "rgb8": (np.uint8, 3),
    "bgr8": (np.uint8, 3),
    "rgba8": (np.uint8, 4),
    "bgra8": (np.uint8, 4),
    "mono8": (np.uint8, 1),
    "8UC1": (np.uint8, 1),
    "8UC3": (np.uint8, 3),
    "mono16": (np.uint16, 1),
    "16UC1": (np.uint16, 1),
    "32FC1": (np.float32, 1),
}
SKIPPED = ("header", "layout", "__msgtype__", "stamp", "timestamp")


@dataclass(frozen=True)
class Leaf:
    """Values of a message: "numbers" (D,) with names, a "text", or an "image".

    `value` of an image is (H, W, C), or the bytes of a PNG or JPEG.
    """

    kind: str
    value: Any
    names: tuple[str, ...] | None = None

    @property
    def nbytes(self) -> int:
        return len(self.value) if isinstance(self.value, bytes | str) else self.value.nbytes

    def unpacked(self, where: str) -> np.ndarray:
        """The value as an array."""
        return decode(where, self.value) if isinstance(self.value, bytes) else self.value


def leaves(topic: str, message: Any, unpack: bool) -> Iterator[tuple[str, Leaf]]:
    """(key, values) of a message: one for all its numbers, or one for each array that it has.

    A message is a mapping, or an object with members. Headers are left out.
    """
    members = _members(message)
    if {"encoding", "height", "width", "data"} <= members.keys():
        yield topic, Leaf("image", _image(topic, members))
    elif {"format", "data"} <= members.keys() and not isinstance(members["data"], str):
        data = np.asarray(members["data"], np.uint8).tobytes()
        leaf = Leaf("image", data)
        yield topic, Leaf("image", leaf.unpacked(topic)) if unpack else leaf
    else:
        yield from _numbers(topic, members)


def _numbers(topic: str, members: Mapping[str, Any]) -> Iterator[tuple[str, Leaf]]:
    texts = {k: v for k, v in members.items() if isinstance(v, str)}
    lists = [v for v in members.values() if _strings(v)]
    arrays = {k: v for k, v in members.items() if _array(v)}
    alone = len(members) == 1
    for name, text in texts.items():
        yield topic if alone else f"{topic}/{name}", Leaf("text", text)
    for name, value in arrays.items():
        x = np.asarray(value)
        x = x.reshape(-1)
        names = next((tuple(n) for n in lists if len(n) == len(x)), None)
        yield topic if alone else f"{topic}/{name}", Leaf("numbers", x, names)
    rest = {k: v for k, v in members.items() if k not in texts and k not in arrays}
    flat = [pair for k, v in rest.items() if not _strings(v) for pair in _flat(k, v)]
    if flat:
        names = tuple(name for name, _ in flat) if len(flat) > 1 else None
        yield topic, Leaf("numbers", np.array([v for _, v in flat]), names)


def _flat(name: str, value: Any) -> Iterator[tuple[str, float]]:
    """Numbers of a member and of those inside it, by dotted names."""
    if isinstance(value, bool | int | float | np.number | np.bool_):
        yield name, value  # type: ignore[misc]
    elif _array(value):
        for k, x in enumerate(np.asarray(value).reshape(-1).tolist()):
            yield f"{name}.{k}", x
    elif isinstance(value, list | tuple):
        for k, item in enumerate(value):
            yield from _flat(f"{name}.{k}", item)
    elif not isinstance(value, str | bytes) and value is not None:
        for inner, item in _members(value).items():
            yield from _flat(f"{name}.{inner}", item)


def _members(message: Any) -> dict[str, Any]:
    found = message if isinstance(message, Mapping) else getattr(message, "__dict__", {})
    return {str(k): v for k, v in found.items() if str(k) not in SKIPPED}


def _strings(value: Any) -> bool:
    return (
        isinstance(value, list | tuple) and bool(value) and all(isinstance(v, str) for v in value)
    )


def _array(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "biuf"
    return isinstance(value, list | tuple) and all(isinstance(v, int | float) for v in value)


def _image(topic: str, members: Mapping[str, Any]) -> np.ndarray:
    encoding, height, width = members["encoding"], int(members["height"]), int(members["width"])
    if encoding not in PIXEL_FORMATS:
        raise Refusal(
            f"{topic}: pictures of '{str(encoding)[:40]}'; expected one of "
            f"{', '.join(PIXEL_FORMATS)}; leave the topic out"
        )
    dtype, channels = PIXEL_FORMATS[encoding]
    kind = np.dtype(dtype).newbyteorder(">" if members.get("is_bigendian") else "<")
    data = np.asarray(members["data"], np.uint8)
    row = width * channels * kind.itemsize
    step = int(members.get("step") or row)
    if not 0 < height * width <= PIXELS or step < row or len(data) < height * step:
        raise Refusal(
            f"{topic}: {len(data)} bytes of a picture of {height} x {width} {encoding}; "
            f"expected {height * max(step, row)}; leave it out"
        )
    packed = data[: height * step].reshape(height, step)[:, :row]
    x = np.ascontiguousarray(packed).view(kind).reshape(height, width, channels).astype(dtype)
    if encoding.startswith("bgr"):
        x = x[..., [2, 1, 0, 3][:channels]]
    return x
