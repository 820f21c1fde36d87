"""Images that packages ship: splits, ranges, and two measures of how far one image is from
another.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from alltrades.envs.suites import images

SOURCES = [
    "digits",
    pytest.param(
        "photographs",
        marks=pytest.mark.skipif(
            __import__("importlib").util.find_spec("skimage") is None,
            reason="needs: pip install alltrades[restoration]",
        ),
    ),
]


@pytest.mark.parametrize("source", SOURCES)
def test_splits_share_no_image_and_are_grey_images_in_the_unit_range(source: str) -> None:
    found = getattr(images, source)()
    seen: set[str] = set()
    for split in images.SPLITS:
        own = getattr(found, split)
        assert own.dtype == np.float32 and own.shape[1:] == found.shape and len(own) >= 290
        assert own.min() >= 0 and own.max() <= 1 and 0.05 < own.std() < 0.5
        marks = {hashlib.sha256(x.tobytes()).hexdigest() for x in own}
        assert not marks & seen
        seen |= marks


def test_digits_are_all_of_the_data_set_in_its_order() -> None:
    from sklearn.datasets import load_digits

    found = images.digits()
    every = np.concatenate([found.train, found.selection, found.evaluation])
    np.testing.assert_array_equal(every * 16, load_digits().images)


def test_patches_are_cut_from_halved_grey_photographs() -> None:
    data = pytest.importorskip("skimage.data", reason="needs: pip install alltrades[restoration]")
    transform = pytest.importorskip("skimage.transform")
    half = transform.downscale_local_mean(data.camera() / 255.0, (2, 2))
    found = images.photographs().evaluation
    first = half[:16, 16:32]
    assert first.std() < images.FLAT and not any(
        np.allclose(x, first, atol=1e-6) for x in found
    )  # sky
    busy = half[112:128, 112:128]
    assert busy.std() > images.FLAT and sum(np.allclose(x, busy, atol=1e-6) for x in found) == 1


@pytest.mark.parametrize("shape", [(8, 8), (16, 16), (9, 13)])
def test_psnr_and_ssim_are_those_of_scikit_image(shape: tuple[int, int]) -> None:
    metrics = pytest.importorskip(
        "skimage.metrics", reason="needs: pip install alltrades[restoration]"
    )
    rng = np.random.default_rng(0)
    for noise in (0.02, 0.2, 0.6):
        clean = rng.random(shape)
        image = clean + noise * rng.standard_normal(shape)
        assert images.psnr(image, clean) == pytest.approx(
            metrics.peak_signal_noise_ratio(clean, image, data_range=1), abs=1e-9
        )
        expected = metrics.structural_similarity(clean, image, win_size=7, data_range=1)
        assert images.ssim(image, clean) == pytest.approx(expected, abs=1e-9)


def test_equal_images_have_finite_psnr_and_ssim_one() -> None:
    x = images.digits().train[0]
    assert images.psnr(x, x) == images.HIGHEST == 60.0 and images.ssim(x, x) == pytest.approx(1.0)
    assert images.psnr(x + 0.1, x) == pytest.approx(
        20.0, abs=1e-5
    )  # by definition: 10 log10(1 / 0.01)


def test_statistics_of_a_known_random_field_are_found() -> None:
    """Rows of a first-order autoregression have covariance variance * exp(-distance / length)."""
    rng = np.random.default_rng(0)
    correlation = np.exp(-1 / 3.0)
    field = np.zeros((400, 32, 32))
    cover = correlation ** abs(np.subtract.outer(np.arange(32), np.arange(32)))
    root = np.linalg.cholesky(cover)
    field = 0.4 + 0.2 * root @ rng.standard_normal(field.shape) @ root.T
    mean, variance, length = images.smoothness(field)
    assert (mean, variance, length) == pytest.approx((0.4, 0.04, 3.0), rel=0.05)
