"""Frames of a video at given times, by PyAV."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from alltrades.data.formats.pictures import PIXELS, Reformatter, array_of
from alltrades.data.formats.recording import Refusal, guarded


class Video:
    """One video file, read forwards; going back seeks.

    Attributes:
        shape, dtype: of a frame's array: (H, W, 3) uint8, or (H, W, 1) of a grey video.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._container: Any = guarded(path, lambda: _opened(path))
        self._stream = self._container.streams.video[0]
        self._base = float(self._stream.time_base)
        self._frames = self._container.decode(self._stream)
        self._pictures = Reformatter()
        self._held: tuple[float, Any] | None = None  # the frame that was read last
        first = guarded(path, self._next)
        if first is None:
            raise Refusal(f"{path}: no frames; expected a video; restore it from a copy")
        picture = array_of(first[1])
        self.shape, self.dtype = picture.shape, picture.dtype.name

    def _next(self) -> tuple[float, Any] | None:
        for frame in self._frames:
            if frame.pts is None:
                continue
            self._held = frame.pts * self._base, frame
            return self._held
        return None

    def read(self, where: str, times: np.ndarray, rate: float) -> np.ndarray:
        """(T, *shape) frames at times (T,) in seconds, ascending; each within half a period of its
        time. Raises `Refusal` where one is missing.
        """
        slack = 0.5 / rate
        if self._held is None or self._held[0] > times[0] + slack or times[0] > self._held[0] + 5:
            guarded(where, lambda: self._seek(float(times[0])))
        out = np.empty((len(times), *self.shape), self.dtype)
        for k, time in enumerate(times.tolist()):
            frame = guarded(where, self._at, time - slack)
            if frame is None or frame[0] > time + slack:
                found = "the video ends" if frame is None else f"the next is at {frame[0]:.3f} s"
                raise Refusal(
                    f"{where}: no frame at {time:.3f} s (step {k} of {len(times)}): {found}; "
                    "expected one per row; restore the video, or leave the episode out"
                )
            size = (frame[1].height, frame[1].width)
            if size != self.shape[:2]:
                raise Refusal(f"{where}: a frame of {size} at step {k}; expected {self.shape[:2]}")
            self._pictures.into(frame[1], out[k])
        return out

    def _at(self, least: float) -> tuple[float, Any] | None:
        """The first frame that is not before a time."""
        while self._held is None or self._held[0] < least:
            if self._next() is None:
                return None
        return self._held

    def _seek(self, time: float) -> None:
        self._container.seek(int(max(0.0, time) / self._base), stream=self._stream, backward=True)
        self._frames = self._container.decode(self._stream)
        self._held = None

    def close(self) -> None:
        """Close the file."""
        self._container.close()


def _opened(path: Path) -> Any:
    import av

    container = av.open(str(path), options={"protocol_whitelist": "file"})
    if not container.streams.video:
        raise Refusal(f"{path}: no video stream; expected one; restore it from a copy")
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    stream.codec_context.options = {"max_pixels": str(PIXELS)}
    if stream.width * stream.height > PIXELS:
        raise Refusal(
            f"{path}: frames of {stream.width} x {stream.height}; expected at most {PIXELS} pixels"
        )
    return container
