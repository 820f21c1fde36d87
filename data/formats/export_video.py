"""Cameras as videos, with their loss: H.264 or AV1 in mp4, as LeRobot has them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from alltrades.data.fields import Field
from alltrades.data.formats.video import Video
from alltrades.errors import UserError

CODECS: Mapping[str, tuple[str, dict[str, str]]] = {  # PyAV's encoder, its options
    "h264": ("libx264", {"crf": "23", "preset": "medium"}),
    "av1": ("libsvtav1", {"crf": "30", "preset": "8"}),
}
GROUP = 2  # frames from one that stands alone to the next, as LeRobot has it: any is read fast
FILE_BYTES = 2 * 10**8  # of one video
PATH = "videos/{}/chunk-{:03d}/file-{:03d}.mp4"
SAMPLE = 64  # pictures of a camera by which the loss is measured


def is_camera(f: Field) -> bool:
    """Whether a field can be a video: three colours of 8 bits."""
    return f.kind == "image" and f.dtype == "uint8" and f.shape[2] == 3


def check_codec(name: str, fields: Mapping[str, Field]) -> None:
    """Raises UserError where PyAV lacks the encoder, or a camera has sides that it refuses."""
    import av

    encoder = CODECS[name][0]
    if encoder not in av.codecs_available:
        raise UserError(
            f"--video {name}: this PyAV has no {encoder}; expected it; install PyAV's wheel, or "
            "use another codec"
        )
    for key, f in fields.items():
        if is_camera(f) and _format(name, f) is None:
            raise UserError(
                f"--video {name}: '{key}' has pictures of {f.shape[0]} x {f.shape[1]}; expected "
                "even sides of 64 pixels or more; use h264"
            )


class Camera:
    """One camera's videos, written episode by episode.

    Args:
        key: LeRobot's, such as "observation.images.front". rate: frames per second.

    Memory is the encoder's, and SAMPLE pictures.
    """

    def __init__(self, out: Path, key: str, f: Field, rate: float, codec: str) -> None:
        self.key, self.field, self.codec = key, f, codec
        self._out, self._rate = out, Fraction(rate).limit_denominator(10_000)
        self._file = self._frames = self._size = 0
        self._container: Any = None
        self._stream: Any = None
        self._kept: list[tuple[Path, float, np.ndarray]] = []

    @property
    def path(self) -> Path:
        """Of the video that is written now."""
        return self._out / PATH.format(self.key, *divmod(self._file, 1000))

    def add(self, pictures: np.ndarray) -> dict[str, Any]:
        """Write an episode (T, H, W, 3); what meta/episodes says of it."""
        import av

        if self._container is not None and self._size > FILE_BYTES:
            self.close()
            self._file += 1
        if self._container is None:
            self._open()
        begin, chosen = self._frames, np.linspace(0, len(pictures) - 1, 4).astype(int)
        for k, picture in enumerate(pictures):
            if k in chosen and len(self._kept) < SAMPLE:
                self._kept.append((self.path, float((begin + k) / self._rate), picture.copy()))
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = begin + k, 1 / self._rate
            self._mux(self._stream.encode(frame))
        self._frames += len(pictures)
        chunk, number = divmod(self._file, 1000)
        facts: dict[str, float] = {"chunk_index": chunk, "file_index": number}
        facts |= {
            "from_timestamp": float(begin / self._rate),
            "to_timestamp": float(self._frames / self._rate),
        }
        return {f"videos/{self.key}/{name}": value for name, value in facts.items()}

    def _open(self) -> None:
        import av

        encoder, options = CODECS[self.codec]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("SVT_LOG", "1")  # of the AV1 encoder: errors alone
        self._container, self._frames, self._size = av.open(str(self.path), "w"), 0, 0
        self._stream = self._container.add_stream(encoder, self._rate, options=dict(options))
        self._stream.height, self._stream.width = self.field.shape[:2]
        self._stream.pix_fmt = _format(self.codec, self.field)
        self._stream.gop_size = GROUP

    def _mux(self, packets: list[Any]) -> None:
        self._size += sum(packet.size for packet in packets)
        self._container.mux(packets)

    def close(self) -> None:
        """Finish the video that is open."""
        if self._container is not None:
            try:
                self._mux(self._stream.encode(None))
            finally:
                self._container.close()
                self._container = None

    def facts(self) -> dict[str, Any]:
        """The feature, as info.json has it."""
        height, width, channels = self.field.shape
        said = {
            "height": height,
            "width": width,
            "codec": self.codec,
            "pix_fmt": _format(self.codec, self.field),
            "fps": float(self._rate) if self._rate.denominator > 1 else int(self._rate),
            "channels": channels,
        }
        info: dict[str, Any] = {f"video.{k}": v for k, v in said.items()}
        return {
            "dtype": "video",
            "shape": [height, width, channels],
            "names": ["height", "width", "channels"],
            "info": {**info, "is_depth_map": False, "has_audio": False},
        }

    def loss(self) -> str:
        """How far the written videos are from the pictures, in words: decodes up to SAMPLE."""
        off = np.array(list(self._differences()))
        mean, worst = float(off.mean()), float(off.max())
        return (
            f"{self.key} as {self.codec}: pixels are {mean:.2g} of 255 off on average, {worst:.2g} "
            f"in the worst of {len(off)} pictures that were compared"
        )

    def _differences(self) -> Iterator[float]:
        for path in dict.fromkeys(path for path, _, _ in self._kept):
            video = Video(path)
            try:
                for where, time, picture in self._kept:
                    if where == path:
                        found = video.read(str(path), np.array([time]), float(self._rate))[0]
                        yield float(np.abs(found.astype(np.int16) - picture).mean())
            finally:
                video.close()


def _format(codec: str, f: Field) -> str | None:
    """Pixels of a video: colours at half the resolution, where sides are even; None where the codec
    has no other.
    """
    even = not (f.shape[0] % 2 or f.shape[1] % 2)
    if codec == "av1":
        return "yuv420p" if even and min(f.shape[:2]) >= 64 else None
    return "yuv420p" if even else "yuv444p"
