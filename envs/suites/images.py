"""Small real images that packages ship, split by image; and how far one image is from another
(PSNR, SSIM).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

SPLITS = ("train", "selection", "evaluation")
DIGITS = (1097, 300, 400)  # images of each split, in the order of the data set
PATCH = 16
FLAT = 0.04  # patches whose deviation is smaller are left out
PHOTOGRAPHS = {
    "train": (
        "astronaut",
        "brick",
        "cell",
        "coffee",
        "grass",
        "hubble_deep_field",
        "immunohistochemistry",
        "moon",
        "rocket",
    ),
    "selection": ("coins", "gravel", "retina"),
    "evaluation": ("camera", "cat", "clock", "page"),
}
HIGHEST = 60.0  # PSNR of equal images, about that of rounding to 8 bits


@dataclass(frozen=True)
class Images:
    """Grey images with values in [0, 1]: for each split (N, H, W) f32. No source image is in two
    splits.
    """

    train: np.ndarray
    selection: np.ndarray
    evaluation: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        return int(self.train.shape[1]), int(self.train.shape[2])


@lru_cache(maxsize=1)
def digits() -> Images:
    """The 1,797 handwritten digits of 8 x 8 pixels that scikit-learn ships (UCI Optical
    Recognition, test part).

    They are split in their order, in which the writers are not mixed much: most evaluation digits
    are by other hands.
    """
    from sklearn.datasets import load_digits

    every = (load_digits().images / 16.0).astype(np.float32)
    return Images(*np.split(every, np.cumsum(DIGITS)[:2]))


@lru_cache(maxsize=1)
def photographs() -> Images:
    """Patches of 16 x 16 pixels of the photographs that scikit-image's wheel holds, whole
    photographs to each split.

    Photographs are reduced to grey and to half their size; patches lie on a regular grid, nearly
    uniform ones are left out.
    """
    import skimage.data

    return Images(
        **{
            split: np.concatenate([_patches(getattr(skimage.data, name)()) for name in names])
            for split, names in PHOTOGRAPHS.items()
        }
    )


def _patches(image: np.ndarray) -> np.ndarray:
    """(N, 16, 16) f32 of an image (H, W) or (H, W, 3) of bytes."""
    grey = (
        image if image.ndim == 2 else image[..., :3] @ np.array([0.2125, 0.7154, 0.0721])
    ) / 255.0
    height, width = (side // (2 * PATCH) * PATCH for side in grey.shape)
    half = grey[: 2 * height, : 2 * width].reshape(height, 2, width, 2).mean((1, 3))
    grid = (
        half.reshape(height // PATCH, PATCH, width // PATCH, PATCH)
        .swapaxes(1, 2)
        .reshape(-1, PATCH, PATCH)
    )
    return grid[grid.std((1, 2)) >= FLAT].astype(np.float32)


def psnr(image: np.ndarray, clean: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB for values in [0, 1]: -10 log10 of the mean squared error,
    at most 60.
    """
    error = float(np.mean((np.asarray(image, np.float64) - clean) ** 2))
    return HIGHEST if error <= 0 else min(HIGHEST, -10.0 * math.log10(error))


def ssim(image: np.ndarray, clean: np.ndarray, window: int = 7, peak: float = 1.0) -> float:
    """Structural similarity of two images (H, W), mean over all windows inside (Wang et al. 2004,
    equation 13).

    Uniform windows, unbiased variances, K1 = 0.01, K2 = 0.03.
    """
    x, y = np.asarray(image, np.float64), np.asarray(clean, np.float64)
    means = [_window_mean(v, window) for v in (x, y, x * x, y * y, x * y)]
    mx, my = means[0], means[1]
    unbiased = window**2 / (window**2 - 1.0)
    vx, vy, vxy = (
        unbiased * (means[2] - mx * mx),
        unbiased * (means[3] - my * my),
        unbiased * (means[4] - mx * my),
    )
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    value = (2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return float(value.mean())


def _window_mean(x: np.ndarray, size: int) -> np.ndarray:
    """(H, W) -> (H - size + 1, W - size + 1) by summed areas."""
    total = np.zeros((x.shape[0] + 1, x.shape[1] + 1))
    total[1:, 1:] = x.cumsum(0).cumsum(1)
    return (
        total[size:, size:] - total[:-size, size:] - total[size:, :-size] + total[:-size, :-size]
    ) / size**2


def smoothness(images: np.ndarray) -> tuple[float, float, float]:
    """Mean, variance and correlation length in pixels of images (N, H, W), from neighbouring
    pixels.
    """
    centered = images.astype(np.float64) - images.mean(dtype=np.float64)
    variance = float(np.mean(centered**2))
    products: Sequence[np.ndarray] = (
        centered[:, 1:] * centered[:, :-1],
        centered[:, :, 1:] * centered[:, :, :-1],
    )
    correlation = float(np.mean([p.mean() for p in products])) / variance
    return float(images.mean(dtype=np.float64)), variance, -1.0 / math.log(correlation)
