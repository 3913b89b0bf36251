from __future__ import annotations

import numpy as np
import pytest
import pywt

from mtkd_dist.metrics import BANDS, error_bands, rgb_to_y

GREY = np.full((48, 56, 3), 128, np.uint8)


def grey(error: np.ndarray) -> np.ndarray:
    """(48,56) levels -> a grey image that differs from `GREY` by so much."""
    return (GREY + error[..., None]).astype(np.uint8)


def test_bands_go_from_coarse_to_fine() -> None:
    assert BANDS == ("LL3", "LH3", "HL3", "HH3", "LH2", "HL2", "HH2", "LH1", "HL1", "HH1")


def test_they_are_the_coefficients_of_pywavelets_without_the_border() -> None:
    rng = np.random.default_rng(0)
    sr, hr = rng.integers(0, 256, (2, 52, 61, 3), dtype=np.uint8)
    inside = (rgb_to_y(sr) - rgb_to_y(hr))[3:43, 3:51]  # 46x55 without the border, of which 40x48 can be halved thrice
    low, *details = pywt.wavedec2(inside, "haar", level=3)
    expected = [low, *(band for level in details for band in level)]
    found = error_bands(sr, hr, border=3)
    for name, band in zip(BANDS, expected, strict=True):
        assert found[name] == pytest.approx(np.abs(band).mean(), rel=1e-9), name


@pytest.mark.parametrize(
    ("band", "error"),
    [
        ("LL3", np.full((48, 56), 8)),
        ("HH1", np.indices((48, 56)).sum(0) % 2 * 16),
        ("LH1", np.indices((48, 56))[0] % 2 * 16),
        ("HL2", np.indices((48, 56))[1] // 2 % 2 * 16),
        ("LH3", np.indices((48, 56))[0] // 4 % 2 * 16),
    ],
)
def test_each_band_knows_its_own_kind_of_error(band: str, error: np.ndarray) -> None:
    mean = 0 if band == "LL3" else int(error.mean())
    found = error_bands(grey(error), grey(np.full_like(error, mean)), border=0)
    assert max(found, key=lambda name: found[name]) == band
    assert sum(value for name, value in found.items() if name != band) == pytest.approx(0, abs=1e-9)


def test_no_error_has_an_empty_spectrum_and_white_noise_a_flat_one() -> None:
    assert set(error_bands(GREY, GREY, border=2).values()) == {0.0}
    noise = np.random.default_rng(1).integers(-40, 41, (480, 560))
    large = np.full((480, 560, 3), 128, np.uint8)
    bands = error_bands((large + noise[..., None]).astype(np.uint8), large, border=0)
    assert max(bands.values()) / min(bands.values()) < 1.1
