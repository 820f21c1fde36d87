"""Packed pictures (PNG, JPEG) as arrays and back, by PyAV."""

from __future__ import annotations

from fractions import Fraction
from io import BytesIO
from typing import Any

import numpy as np

from alltrades.data.formats.recording import Refusal, guarded

CODECS = {b"\x89PNG": "png", b"\xff\xd8": "mjpeg"}
PIXELS = 2**26  # of one picture
_WIDE = ("gray16be", "gray16le")


def is_packed(data: bytes) -> bool:
    """Whether bytes begin as a picture does that `decode` reads."""
    return any(data.startswith(magic) for magic in CODECS)


def decode(where: str, data: bytes) -> np.ndarray:
    """(H, W, 3) uint8 of a PNG or JPEG; (H, W, 1) of a grey one, uint16 where it has 16 bits.

    Raises `Refusal` for anything else, and for pictures of more than PIXELS.
    """
    name = next((c for magic, c in CODECS.items() if data[: len(magic)] == magic), None)
    if name is None:
        raise Refusal(f"{where}: begins with {data[:4].hex()}; expected a PNG or JPEG picture")
    return guarded(where, lambda: _decoded(where, name, data))


def _decoded(where: str, name: str, data: bytes) -> np.ndarray:
    import av

    codec: Any = av.CodecContext.create(name, "r")
    codec.options = {"max_pixels": str(PIXELS)}
    frames = [*codec.decode(av.Packet(data)), *codec.decode(None)]
    if len(frames) != 1:
        raise Refusal(f"{where}: {len(frames)} pictures in it; expected one; restore the file")
    return array_of(frames[0])


class Reformatter:
    """Frames of one video as arrays: its conversion is set up once, and each is copied once."""

    def __init__(self) -> None:
        from av.video.reformatter import VideoReformatter

        self._convert = VideoReformatter()

    def into(self, frame: Any, out: np.ndarray) -> None:
        """Write a frame into (H, W, C) of the shape and dtype that `array_of` gives."""
        if out.shape[2] != 3:
            out[:] = array_of(frame)
            return
        rgb = self._convert.reformat(frame, format="rgb24")
        plane: Any = rgb.planes[0]
        rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
        out[:] = rows[:, : plane.width * 3].reshape(plane.height, plane.width, 3)


def array_of(frame: Any) -> np.ndarray:
    """A decoded frame: (H, W, 3) uint8, or (H, W, 1) of a grey one."""
    name = frame.format.name
    if name in _WIDE:
        return frame.to_ndarray(format="gray16le")[..., None]
    if name == "gray":
        return frame.to_ndarray(format="gray")[..., None]
    if name == "rgba":
        return frame.to_ndarray(format="rgba")
    return frame.to_ndarray(format="rgb24")


def encode_png(picture: np.ndarray) -> bytes:
    """(H, W, 1, 3 or 4) uint8, or (H, W, 1) uint16, as a PNG without loss."""
    import av

    height, width, channels = picture.shape
    wide = picture.dtype == np.uint16
    name = "gray16be" if wide else {1: "gray", 3: "rgb24", 4: "rgba"}[channels]
    flat = picture[..., 0] if channels == 1 else picture
    if wide:
        frame = av.VideoFrame(width, height, "gray16be")
        plane = np.frombuffer(frame.planes[0], np.uint8)  # type: ignore[call-overload]
        rows = plane.reshape(height, -1)
        rows[:, : 2 * width] = flat.astype(">u2").view(np.uint8).reshape(height, -1)
    else:
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(flat), format=name)
    codec: Any = av.CodecContext.create("png", "w")
    codec.width, codec.height, codec.pix_fmt = width, height, name
    codec.time_base = Fraction(1)
    out = BytesIO()
    for packet in [*codec.encode(frame), *codec.encode(None)]:
        out.write(bytes(packet))
    return out.getvalue()
