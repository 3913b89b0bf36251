"""The metrics against published numbers, and against their formulas."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.signal import convolve2d
from skimage.metrics import structural_similarity

from mtkd_dist.metrics import Scores, modcrop, psnr_y, rgb_to_y, score, score_rgb, ssim_y, to_uint8


def noise(height: int = 24, width: int = 20, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def grey(value: int, side: int = 24) -> np.ndarray:
    return np.full((side, side, 3), value, dtype=np.uint8)


def load(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.mark.parametrize(("scale", "psnr", "ssim"), [(2, 38.27, 0.9614), (3, 34.74, 0.9299), (4, 32.63, 0.9002)])
def test_outputs_of_rcan_on_set5_score_as_published(shared_dir: Path, scale: int, psnr: float, ssim: float) -> None:
    """Zhang et al., ECCV 2018, table 2, to the last printed digit."""
    scores = []
    for hr_path in sorted((shared_dir / "data/test/Set5/HR").glob("*.png")):
        sr = load(shared_dir / f"data/reference/RCAN_Set5/x{scale}/{hr_path.stem}_RCAN_x{scale}.png")
        scores.append(score(sr, modcrop(load(hr_path), scale), scale))
    assert len(scores) == 5
    mean = Scores(*np.mean(scores, axis=0))
    assert round(mean.psnr_y, 2) == psnr
    assert round(mean.ssim_y, 4) == ssim


def test_ssim_equals_its_definition() -> None:
    """Wang et al., IEEE TIP 2004, written down with one explicit 11x11 window."""
    offsets = np.arange(11) - 5
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None, :] ** 2) / (2 * 1.5**2))
    window /= window.sum()

    def local_mean(x: np.ndarray) -> np.ndarray:
        return convolve2d(x, window, mode="valid")

    sr, hr = noise(seed=0), noise(seed=1)
    hr = (0.7 * sr + 0.3 * hr).astype(np.uint8)
    x, y = rgb_to_y(sr), rgb_to_y(hr)
    mean_x, mean_y = local_mean(x), local_mean(y)
    var_x, var_y = local_mean(x * x) - mean_x**2, local_mean(y * y) - mean_y**2
    cov = local_mean(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    expected = (2 * mean_x * mean_y + c1) * (2 * cov + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    assert ssim_y(sr, hr, border=0) == pytest.approx(expected.mean(), rel=1e-9)


@pytest.mark.parametrize(
    ("rgb", "y"),
    [
        ((0, 0, 0), 16.0),
        ((255, 255, 255), 235.0),
        ((255, 0, 0), 81.481),
        ((0, 255, 0), 144.553),
        ((0, 0, 255), 40.966),
        ((128, 128, 128), 16 + 219 * 128 / 255),
    ],
)
def test_luma_is_bt601_in_studio_range_and_not_rounded(rgb: tuple[int, int, int], y: float) -> None:
    luma = rgb_to_y(np.full((2, 3, 3), rgb, dtype=np.uint8))
    assert luma.shape == (2, 3)
    assert luma.dtype == np.float64
    np.testing.assert_allclose(luma, y, rtol=1e-12)


def test_psnr_of_a_constant_error_is_its_formula() -> None:
    assert psnr_y(grey(100), grey(110), border=0) == pytest.approx(20 * math.log10(255 / (10 * 219 / 255)))


def test_identical_images_have_infinite_psnr_and_unit_ssim() -> None:
    assert score(noise(), noise(), scale=2) == (math.inf, 1.0)


def test_psnr_rgb_counts_all_samples_of_all_channels() -> None:
    sr, hr = grey(100), grey(100)
    sr[..., 1] += 6
    assert score_rgb(sr, hr, scale=2).psnr_rgb == pytest.approx(10 * math.log10(255**2 / (6**2 / 3)))


def test_ssim_rgb_is_the_mean_of_the_channels_without_the_border() -> None:
    sr, hr = noise(seed=0), noise(seed=1)
    inside = np.s_[3:-3, 3:-3]
    expected = structural_similarity(
        sr[inside],
        hr[inside],
        channel_axis=-1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
    )
    assert score_rgb(sr, hr, scale=3).ssim_rgb == pytest.approx(expected)
    assert score_rgb(hr, hr, scale=3) == (math.inf, 1.0)


def test_errors_inside_the_border_do_not_count() -> None:
    hr, sr = noise(), noise()
    sr[:3], sr[-3:], sr[:, :3], sr[:, -3:] = 0, 0, 0, 0
    assert score(sr, hr, scale=3) == (math.inf, 1.0)
    assert psnr_y(sr, hr, border=2) < math.inf
    assert ssim_y(sr, hr, border=2) < 1


def test_score_shaves_the_scale() -> None:
    sr, hr = noise(seed=0), noise(seed=1)
    assert score(sr, hr, scale=4) == Scores(psnr_y(sr, hr, border=4), ssim_y(sr, hr, border=4))


def test_to_uint8_clips_and_rounds() -> None:
    values = torch.tensor([-0.5, 0.0, 0.4 / 255, 0.6 / 255, 254.6 / 255, 1.0, 1.5])
    image = to_uint8(values.expand(3, 1, 7))
    assert image.dtype == np.uint8
    assert image[0, :, 0].tolist() == [0, 0, 0, 1, 255, 255, 255]


def test_to_uint8_moves_channels_last() -> None:
    image = torch.arange(2 * 3 * 4 * 5).view(2, 3, 4, 5) / 255
    np.testing.assert_array_equal(to_uint8(image), np.arange(120).reshape(2, 3, 4, 5).transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(to_uint8(image[1]), to_uint8(image)[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_to_uint8_rounds_the_value_of_every_float_dtype(dtype: torch.dtype) -> None:
    image = torch.linspace(0, 1, 300).expand(3, 1, 300).to(dtype)
    np.testing.assert_array_equal(to_uint8(image)[0], np.rint(image.double()[:, 0].T.numpy() * 255))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_to_uint8_undoes_the_division_by_255(dtype: torch.dtype) -> None:
    image = noise()
    np.testing.assert_array_equal(to_uint8((torch.from_numpy(image).permute(2, 0, 1) / 255).to(dtype)), image)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(8, 8), r"shape \(8, 8\)"),
        (torch.zeros(1, 8, 8), r"must be \(3, H, W\)"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), "dtype torch.uint8"),
        (torch.full((3, 8, 8), torch.nan), "NaN or infinity"),
        (torch.full((3, 8, 8), torch.inf), "NaN or infinity"),
    ],
)
def test_to_uint8_refuses_what_is_not_an_image(image: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_uint8(image)


def test_modcrop_keeps_the_upper_left_multiple_of_the_scale() -> None:
    image = noise(23, 17)
    np.testing.assert_array_equal(modcrop(image, 4), image[:20, :16])
    np.testing.assert_array_equal(modcrop(image[..., 0], 3), image[:21, :15, 0])


@pytest.mark.parametrize(
    ("image", "scale", "message"),
    [
        (np.zeros(8), 2, r"shape \(8,\)"),
        (noise(), 0, "scale is 0"),
        (noise(3, 9), 4, "at least scale=4"),
    ],
)
def test_modcrop_refuses_what_it_cannot_crop(image: np.ndarray, scale: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        modcrop(image, scale)


@pytest.mark.parametrize("metric", [psnr_y, ssim_y, score, score_rgb])
@pytest.mark.parametrize(
    ("sr", "hr", "border", "message"),
    [
        (noise(), noise(24, 21), 2, r"sr has shape \(24, 20, 3\), hr \(24, 21, 3\).*modcrop\(hr, scale\)"),
        (noise().astype(np.float32), noise(), 2, "sr has dtype float32: .*to_uint8"),
        (noise(), noise().astype(np.int64), 2, "hr has dtype int64"),
        (noise()[..., 0], noise()[..., 0], 2, r"sr has shape \(24, 20\).*three equal channels"),
        (noise(), noise(), -1, "border is -1"),
        (noise(), noise(), 10, "nothing is left inside a border of 10"),
    ],
)
def test_metrics_refuse_what_they_cannot_compare(
    metric: Callable[..., object], sr: np.ndarray, hr: np.ndarray, border: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        metric(sr, hr, border)


def test_ssim_needs_one_whole_window() -> None:
    assert ssim_y(noise(11, 11, 0), noise(11, 11, 0), border=0) == 1
    with pytest.raises(ValueError, match=r"10x15 pixels are left .*at least 11x11"):
        ssim_y(noise(14, 19, 0), noise(14, 19, 1), border=2)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (noise() / 255, "image has dtype float64"),
        (noise()[None], r"image has shape \(1, 24, 20, 3\)"),
    ],
)
def test_rgb_to_y_refuses_what_is_not_an_8_bit_image(image: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rgb_to_y(image)
