"""Random changes of images in training: shifts, brightness and colours, cameras that are left
out.
"""

from __future__ import annotations

import numpy as np

from alltrades.policies.settings import EncoderSettings

MIDDLE = 127.5  # of uint8, which contrast leaves as it is


def augmented(
    frames: np.ndarray, settings: EncoderSettings, rng: np.random.Generator
) -> np.ndarray:
    """Windows (B, frames, H, W, C) of a camera with what the settings ask for, each row by numbers
    of its own and all its frames alike. Frames that are missing stay so.

    Colours of uint8 images alone are changed; a shift repeats the edges. O(bytes).
    """
    if settings.shift:
        frames = shifted(
            frames, rng.integers(-settings.shift, settings.shift + 1, (len(frames), 2))
        )
    if settings.jitter and frames.dtype == np.uint8:
        frames = jittered(frames, rng.uniform(-settings.jitter, settings.jitter, (len(frames), 5)))
    return frames


def shifted(frames: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Rows (B, frames, H, W, C) moved down and to the right by (B, 2) pixels."""
    height, width = frames.shape[2:4]
    out = np.empty_like(frames)
    for i, (down, right) in enumerate(by):
        rows = np.clip(np.arange(height) - down, 0, height - 1)
        columns = np.clip(np.arange(width) - right, 0, width - 1)
        out[i] = frames[i][:, rows[:, None], columns]
    return out


def jittered(frames: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Rows (B, frames, H, W, C) of uint8 with contrast, brightness and each of three colours
    changed by shares (B, 5).
    """
    values = np.arange(256, dtype=np.float32)
    out = frames.copy()
    for i, (contrast, brightness, *colours) in enumerate(by):
        there = frames[i].reshape(len(frames[i]), -1).any(1)
        plain = MIDDLE + (1 + contrast) * (values - MIDDLE)
        for channel in range(min(frames.shape[4], len(colours))):
            own = plain * (1 + brightness) * (1 + colours[channel])
            table = own.clip(0, 255).round().astype(np.uint8)
            out[i, there, ..., channel] = table[frames[i, there, ..., channel]]
    return out
