"""PSNR and SSIM by the protocol of the super-resolution literature: uint8 images, borders shaved.

On luma, as nearly all papers report them, and on RGB, as the NTIRE challenges do: a number without its colour space
says nothing. Every PSNR and SSIM that the project reports comes from here. Checked against the published Set5 results
of RCAN (Zhang et al., ECCV 2018) in ``tests/test_metrics.py``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

Uint8Image = NDArray[np.uint8]
Luma = NDArray[np.float64]

SSIM_WINDOW = 11
"""Side in pixels of the window of SSIM: the smallest image that it is defined for, once the border is shaved."""
_PEAK = 255.0
_SSIM_SIGMA = 1.5


class Scores(NamedTuple):
    """PSNR in dB (inf for identical images) and SSIM (at most 1), both on the luma channel."""

    psnr_y: float
    ssim_y: float


def score(sr: Uint8Image, hr: Uint8Image, scale: int) -> Scores:
    """Score one image by the protocol of the papers: shave ``scale`` pixels from every side, then PSNR-Y and SSIM-Y.

    Args:
        sr: (H, W, 3) uint8 RGB, the super-resolved image; see :func:`to_uint8`.
        hr: (H, W, 3) uint8 RGB, the truth; see :func:`modcrop`.
        scale: the upscaling factor, in pixels the border that does not count.

    Raises:
        ValueError: as :func:`ssim_y`.
    """
    sr_y, hr_y = _shaved_luma(sr, hr, border=scale)
    return Scores(_psnr(sr_y, hr_y), _ssim(sr_y, hr_y))


class RGBScores(NamedTuple):
    """PSNR in dB (inf for identical images) of all samples of R, G and B together, and the mean SSIM of the three."""

    psnr_rgb: float
    ssim_rgb: float


def score_rgb(sr: Uint8Image, hr: Uint8Image, scale: int) -> RGBScores:
    """As :func:`score`, on the colour channels instead of the luma: usually 1 to 2 dB lower.

    Args:
        sr: (H, W, 3) uint8 RGB.
        hr: (H, W, 3) uint8 RGB.
        scale: the upscaling factor, in pixels the border that does not count.

    Raises:
        ValueError: as :func:`ssim_y`.
    """
    sr_rgb, hr_rgb = (image.astype(np.float64) for image in shave(sr, hr, border=scale))
    ssims = [_ssim(sr_rgb[..., channel], hr_rgb[..., channel]) for channel in range(3)]
    return RGBScores(_psnr(sr_rgb, hr_rgb), float(np.mean(ssims)))


def psnr_y(sr: Uint8Image, hr: Uint8Image, border: int) -> float:
    """Peak signal-to-noise ratio of the luma in dB, 10 * log10(255**2 / MSE); inf for identical images.

    Args:
        sr: (H, W, 3) uint8 RGB.
        hr: (H, W, 3) uint8 RGB.
        border: pixels to leave out on every side, 0 or more.

    Raises:
        ValueError: not uint8 (H, W, 3), shapes differ, or nothing is left inside the border.
    """
    return _psnr(*_shaved_luma(sr, hr, border))


def ssim_y(sr: Uint8Image, hr: Uint8Image, border: int) -> float:
    """Mean structural similarity of the luma, in [-1, 1]; 1 for identical images.

    Gaussian window of 11x11 with sigma 1.5, only windows that lie wholly inside the image, K1 = 0.01, K2 = 0.03,
    L = 255 (Wang et al., IEEE TIP 2004).

    Args:
        sr: (H, W, 3) uint8 RGB.
        hr: (H, W, 3) uint8 RGB.
        border: pixels to leave out on every side, 0 or more.

    Raises:
        ValueError: not uint8 (H, W, 3), shapes differ, or less than 11x11 pixels are left inside the border.
    """
    return _ssim(*_shaved_luma(sr, hr, border))


def rgb_to_y(image: Uint8Image) -> Luma:
    """Luma of BT.601 in studio range, as MATLAB's ``rgb2ycbcr`` but not rounded.

    Y = 16 + (65.481 R + 128.553 G + 24.966 B) / 255, so black is 16 and white is 235.

    Args:
        image: (H, W, 3) uint8 RGB.

    Returns:
        (H, W) float64 in [16, 235].

    Raises:
        ValueError: not uint8 (H, W, 3).
    """
    _check_rgb("image", image)
    return 16.0 + image @ np.array([65.481, 128.553, 24.966]) / 255.0


def to_uint8(image: torch.Tensor) -> Uint8Image:
    """The 8-bit image that a viewer would see: clip to [0, 1], times 255, round (halves to even).

    Args:
        image: (3, H, W) or (B, 3, H, W) floating-point RGB, nominally in [0, 1], on any device.

    Returns:
        (H, W, 3) or (B, H, W, 3) uint8, contiguous.

    Raises:
        ValueError: another shape or dtype, or NaN or infinity in the image.
    """
    if image.ndim not in (3, 4) or image.shape[-3] != 3:
        raise ValueError(f"image has shape {tuple(image.shape)}: it must be (3, H, W) or (B, 3, H, W)")
    if not image.is_floating_point():
        raise ValueError(f"image has dtype {image.dtype}: it must be floating point in [0, 1]")
    if not image.isfinite().all():
        raise ValueError("image holds NaN or infinity: the network that made it has diverged, so it has no score")
    # In half precision, times 255 would round before the rounding that the protocol asks for.
    levels = image.detach().float().clamp(0, 1).mul(255).round().to(torch.uint8)
    return levels.movedim(-3, -1).contiguous().cpu().numpy()


def from_uint8(image: Uint8Image, device: torch.device | None = None) -> torch.Tensor:
    """What networks take: (H, W, 3) uint8 RGB -> (1, 3, H, W) float32 in [0, 1], a copy on `device` (default: CPU)."""
    return torch.from_numpy(np.array(image)).to(device).permute(2, 0, 1).float().div_(255)[None]


def modcrop(image: np.ndarray, scale: int) -> np.ndarray:
    """Crop at the bottom and right so that height and width are multiples of ``scale``.

    Args:
        image: (H, W) or (H, W, C), any dtype.
        scale: the upscaling factor, at least 1.

    Returns:
        A view of ``image``.

    Raises:
        ValueError: another number of axes, scale below 1, or an image smaller than ``scale`` on a side.
    """
    if image.ndim not in (2, 3):
        raise ValueError(f"image has shape {image.shape}: it must be (H, W) or (H, W, C)")
    if scale < 1:
        raise ValueError(f"scale is {scale}: it must be at least 1")
    height, width = (side // scale * scale for side in image.shape[:2])
    if height == 0 or width == 0:
        raise ValueError(f"image has shape {image.shape}: both sides must be at least scale={scale} pixels")
    return image[:height, :width]


def shave(sr: Uint8Image, hr: Uint8Image, border: int) -> tuple[Uint8Image, Uint8Image]:
    """Both images without ``border`` pixels on every side, as views.

    Args:
        sr: (H, W, 3) uint8 RGB.
        hr: (H, W, 3) uint8 RGB.
        border: pixels to leave out on every side, 0 or more.

    Raises:
        ValueError: not uint8 (H, W, 3), shapes differ, or nothing is left inside the border.
    """
    _check_rgb("sr", sr)
    _check_rgb("hr", hr)
    if sr.shape != hr.shape:
        raise ValueError(f"sr has shape {sr.shape}, hr {hr.shape}: they must be equal; crop hr with modcrop(hr, scale)")
    if border < 0:
        raise ValueError(f"border is {border}: it must be 0 or more pixels")
    height, width = sr.shape[:2]
    if min(height, width) <= 2 * border:
        raise ValueError(f"image is {height}x{width} (HxW): nothing is left inside a border of {border} pixels")
    inside = np.s_[border : height - border, border : width - border]
    return sr[inside], hr[inside]


def _psnr(sr: NDArray[np.float64], hr: NDArray[np.float64]) -> float:
    mse = float(np.mean((sr - hr) ** 2))
    return math.inf if mse == 0 else 10 * math.log10(_PEAK**2 / mse)


def _ssim(sr: NDArray[np.float64], hr: NDArray[np.float64]) -> float:
    """Of one channel, (H, W) in [0, 255]."""
    if min(sr.shape) < SSIM_WINDOW:
        raise ValueError(
            f"{sr.shape[0]}x{sr.shape[1]} pixels are left inside the border: SSIM needs at least "
            f"{SSIM_WINDOW}x{SSIM_WINDOW}; use a larger image or a smaller border"
        )
    # These settings give the 11x11 window, and scikit-image averages over windows inside the image only.
    similarity = structural_similarity(
        sr, hr, gaussian_weights=True, sigma=_SSIM_SIGMA, use_sample_covariance=False, data_range=_PEAK
    )
    return float(similarity)


def _shaved_luma(sr: Uint8Image, hr: Uint8Image, border: int) -> tuple[Luma, Luma]:
    sr, hr = shave(sr, hr, border)
    return rgb_to_y(sr), rgb_to_y(hr)


def _check_rgb(name: str, image: np.ndarray) -> None:
    if image.dtype != np.uint8:
        raise ValueError(f"{name} has dtype {image.dtype}: it must be uint8; convert network outputs with to_uint8")
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"{name} has shape {image.shape}: it must be (H, W, 3) RGB; give a grey image three equal channels"
        )
